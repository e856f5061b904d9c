//! The classifier against a slow and plain model over random event streams; and the proof that this
//! comparison notices wrong rules.

mod model;

use model::{Paper, compare, mutants, stream};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

const CASES: u32 = 1_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn classifier_does_what_the_model_does(steps in stream::stream()) {
        compare::<Paper>(&steps).map_err(TestCaseError::fail)?;
    }
}

/// The same comparison, the same streams, the same number of them: each wrong rule must make it fail.
#[test]
fn comparison_catches_every_mutant() {
    let mut survivors = Vec::new();
    for (name, compare) in mutants::ALL {
        let config =
            Config { cases: CASES, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let result = TestRunner::new_with_rng(config, rng)
            .run(&stream::stream(), |steps| compare(&steps).map_err(TestCaseError::fail));
        match result {
            Err(TestError::Fail(..)) => {}
            Ok(()) => survivors.push(*name),
            Err(TestError::Abort(why)) => panic!("{name}: {why}"),
        }
    }
    assert!(survivors.is_empty(), "not told from the right rule: {survivors:?}");
    assert!(mutants::ALL.len() >= 25);
}

/// The streams reach what they are meant to reach: otherwise agreement would mean little.
#[test]
fn streams_reach_every_counter() {
    use ispin_common::classifier::Classifier;
    use ispin_common::counters::Counters;

    let mut total = Counters::default();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let seen = std::cell::RefCell::new(&mut total);
    TestRunner::new_with_rng(config, rng)
        .run(&stream::stream(), |steps| {
            let mut classifier = Classifier::new();
            for step in &steps {
                match step {
                    stream::Step::Event(event, released) => {
                        classifier.on_event(event, *released);
                    }
                    stream::Step::SkipSeq(_) => {}
                    stream::Step::Flush => classifier.flush(),
                    stream::Step::Csd(csd) => classifier.csd = *csd,
                }
            }
            seen.borrow_mut().merge(&classifier.counters);
            Ok(())
        })
        .expect("nothing is asserted in there");
    let never: Vec<_> = Counters::NAMES
        .iter()
        .zip(total.values())
        // Rings belong to the classifier's owner.
        .filter(|&(&name, count)| count == 0 && name != "dropped")
        .map(|(name, _)| name)
        .collect();
    assert!(never.is_empty(), "no stream reaches {never:?}");
}
