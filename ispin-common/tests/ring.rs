//! The incident ring against a queue, and with both sides running.

use std::collections::VecDeque;

use ispin_common::ring::Ring;
use proptest::prelude::*;

type Small = Ring<[u64; 3], 8>;

fn new_ring<T: Copy, const N: usize>() -> Box<Ring<T, N>> {
    // SAFETY: all zeroes is an empty ring, and the record types used here are integers.
    unsafe { Box::<Ring<T, N>>::new_zeroed().assume_init() }
}

proptest! {
    #[test]
    fn behaves_as_a_bounded_queue(pushes in prop::collection::vec(any::<bool>(), 0..200)) {
        let mut ring: Box<Small> = new_ring();
        let ring = &raw mut *ring;
        let mut queue = VecDeque::new();
        let mut dropped = 0;
        for (i, push) in pushes.into_iter().enumerate() {
            if push {
                let record = [i as u64; 3];
                // SAFETY: a live ring, used by this thread alone.
                let fitted = unsafe { Small::push(ring, &record) };
                prop_assert_eq!(fitted, queue.len() < 8);
                if fitted {
                    queue.push_back(record);
                } else {
                    dropped += 1;
                }
            } else {
                // SAFETY: as above.
                prop_assert_eq!(unsafe { Small::pop(ring) }, queue.pop_front());
            }
            // SAFETY: as above.
            prop_assert_eq!(unsafe { Small::dropped(ring) }, dropped);
        }
    }
}

#[test]
fn goes_on_when_its_indices_wrap() {
    let mut ring: Box<Small> = new_ring();
    ring.head = u64::MAX - 2;
    ring.tail = u64::MAX - 2;
    let ring = &raw mut *ring;
    for round in 0..10u64 {
        for i in 0..8 {
            // SAFETY: a live ring, used by this thread alone.
            assert!(unsafe { Small::push(ring, &[round, i, 0]) });
        }
        // SAFETY: as above.
        assert!(!unsafe { Small::push(ring, &[0, 0, 0]) }, "a ninth record does not fit");
        for i in 0..8 {
            // SAFETY: as above.
            assert_eq!(unsafe { Small::pop(ring) }, Some([round, i, 0]));
        }
    }
    // SAFETY: as above.
    assert_eq!(unsafe { Small::dropped(ring) }, 10);
}

/// Producer and consumer on two threads: every record arrives once, whole and in order, or is counted.
#[test]
fn one_producer_and_one_consumer() {
    struct Shared(*mut Ring<[u64; 14], 64>);
    // SAFETY: the ring is made for one producer and one consumer on different threads.
    unsafe impl Sync for Shared {}

    let total = 200_000u64;
    let mut ring: Box<Ring<[u64; 14], 64>> = new_ring();
    let shared = Shared(&raw mut *ring);
    let (mut seen, mut last) = (0, None);
    std::thread::scope(|scope| {
        let shared = &shared;
        let producer = scope.spawn(move || {
            let mut fitted = 0u64;
            for i in 0..total {
                // SAFETY: the one producer.
                fitted += u64::from(unsafe { Ring::push(shared.0, &[i; 14]) });
                if i % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            fitted
        });
        loop {
            let finished = producer.is_finished();
            // SAFETY: the one consumer.
            while let Some(record) = unsafe { Ring::pop(shared.0) } {
                assert_eq!(record, [record[0]; 14], "a record is whole");
                assert!(last.is_none_or(|last| record[0] > last), "records come in order");
                last = Some(record[0]);
                seen += 1;
            }
            if finished {
                break;
            }
            std::thread::yield_now();
        }
        let fitted = producer.join().expect("the producer does not panic");
        assert_eq!(seen, fitted);
    });
    // SAFETY: both threads are done.
    assert_eq!(seen + unsafe { Ring::dropped(shared.0) }, total);
    assert!(seen > 0);
}
