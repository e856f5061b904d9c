//! What the person at the keys chose: panel, row, order, filter.

use super::incidents::Logged;
use super::measured::{Measured, Place, Rates, RowRates};

/// A panel that can have the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Panel {
    /// Table per vCPU.
    #[default]
    Vcpus,
    /// Hold and wait histograms.
    Times,
    /// Top locks.
    Locks,
    /// Top callers.
    Callers,
    /// Incident log.
    Incidents,
}

impl Panel {
    /// All of them, in the order of Tab.
    pub const ALL: [Self; 5] = [Self::Vcpus, Self::Times, Self::Locks, Self::Callers, Self::Incidents];

    /// Its heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vcpus => "vCPUs",
            Self::Times => "hold and wait",
            Self::Locks => "locks",
            Self::Callers => "callers",
            Self::Incidents => "incidents",
        }
    }

    /// Orders that its rows can have; the first is the one at the start. Empty = it has no rows.
    pub const fn orders(self) -> &'static [Order] {
        match self {
            Self::Vcpus => &[
                Order::Place,
                Order::Takes,
                Order::Deferrals,
                Order::Lhp,
                Order::Lwp,
                Order::Harmful,
                Order::Spin,
            ],
            Self::Times => &[],
            Self::Locks | Self::Callers => &[
                Order::Takes,
                Order::Contended,
                Order::Deferrals,
                Order::Wait,
                Order::Hold,
                Order::Lhp,
                Order::Lwp,
                Order::Harmful,
                Order::Name,
            ],
            Self::Incidents => &[Order::Newest, Order::Lost, Order::Off],
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What rows are ordered by: names and places upwards, figures from the largest down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// VM and vCPU.
    Place,
    /// Name.
    Name,
    /// Takes, or acquires of a lock.
    Takes,
    /// Share of acquires that met a queue.
    Contended,
    /// Deferrals.
    Deferrals,
    /// Mean wait.
    Wait,
    /// Mean hold.
    Hold,
    /// LHP.
    Lhp,
    /// LWP.
    Lwp,
    /// Harmful LWP.
    Harmful,
    /// Spin time.
    Spin,
    /// Newest incident first.
    Newest,
    /// Most time lost to others first.
    Lost,
    /// Longest off the pCPU first.
    Off,
}

/// Choices of the person at the keys.
#[derive(Clone, Debug, Default)]
pub struct Ui {
    /// The panel that has the keys.
    pub focus: Panel,
    /// Rows whose names do not contain this, in upper or lower case, are hidden. Empty = none are.
    pub filter: String,
    /// The filter is being typed; holds what it was before.
    pub typing: Option<String>,
    /// The list of keys is open.
    pub help: bool,
    /// Number of the incident that is open.
    pub opened: Option<u64>,
    selected: [usize; Panel::ALL.len()],
    order: [usize; Panel::ALL.len()],
    /// The selected incident keeps being selected while newer ones come in above it.
    pub(super) selected_incident: Option<u64>,
}

impl Ui {
    /// The selected row of `panel`, counted from the top of what is shown.
    pub fn selected(&self, panel: Panel) -> usize {
        self.selected[panel.index()]
    }

    /// Selects a row of `panel`.
    pub fn select(&mut self, panel: Panel, row: usize) {
        self.selected[panel.index()] = row;
    }

    /// The order of `panel`'s rows; `None` if it has no rows.
    pub fn order(&self, panel: Panel) -> Option<Order> {
        panel.orders().get(self.order[panel.index()]).copied()
    }

    /// The next order of `panel`'s rows.
    pub fn next_order(&mut self, panel: Panel) {
        let orders = panel.orders().len();
        if orders > 0 {
            let order = &mut self.order[panel.index()];
            *order = (*order + 1) % orders;
        }
    }

    /// The panel `steps` further on.
    pub fn turn(&mut self, steps: isize) {
        let count = Panel::ALL.len() as isize;
        let at = (self.focus.index() as isize + steps).rem_euclid(count);
        self.focus = Panel::ALL[at as usize];
    }

    fn lets_pass(&self, texts: &[&str]) -> bool {
        if self.filter.is_empty() {
            return true;
        }
        let wanted = self.filter.to_lowercase();
        texts.iter().any(|text| text.to_lowercase().contains(&wanted))
    }

    /// vCPUs that pass the filter, in order.
    pub fn vcpus<'a>(&self, measured: &'a Measured) -> Vec<&'a (Place, Rates)> {
        let mut rows: Vec<_> =
            measured.vcpus.iter().filter(|(place, _)| self.lets_pass(&[&place.to_string()])).collect();
        let by = |key: fn(&Rates) -> f64| {
            move |a: &&(Place, Rates), b: &&(Place, Rates)| key(&b.1).total_cmp(&key(&a.1))
        };
        // Sorting is stable: equal rows stay in the order of their places.
        match self.order(Panel::Vcpus) {
            Some(Order::Takes) => rows.sort_by(by(|r| r.takes)),
            Some(Order::Deferrals) => rows.sort_by(by(|r| r.deferrals)),
            Some(Order::Lhp) => rows.sort_by(by(|r| r.lhp)),
            Some(Order::Lwp) => rows.sort_by(by(|r| r.lwp)),
            Some(Order::Harmful) => rows.sort_by(by(|r| r.lwp_harmful)),
            Some(Order::Spin) => rows.sort_by(by(|r| r.spin_pct.unwrap_or(0.0))),
            _ => {}
        }
        rows
    }

    /// Locks or callers that pass the filter, in order.
    pub fn rows<'a>(&self, panel: Panel, rows: &'a [RowRates]) -> Vec<&'a RowRates> {
        let mut rows: Vec<_> = rows.iter().filter(|row| self.lets_pass(&[&row.name])).collect();
        let by = |key: fn(&RowRates) -> f64| move |a: &&RowRates, b: &&RowRates| key(b).total_cmp(&key(a));
        match self.order(panel) {
            Some(Order::Name) => rows.sort_by(|a, b| a.name.cmp(&b.name)),
            Some(Order::Contended) => rows.sort_by(by(|r| r.contended_pct)),
            Some(Order::Deferrals) => rows.sort_by(by(|r| r.deferrals)),
            Some(Order::Wait) => rows.sort_by(by(|r| r.wait)),
            Some(Order::Hold) => rows.sort_by(by(|r| r.hold)),
            Some(Order::Lhp) => rows.sort_by(by(|r| r.lhp)),
            Some(Order::Lwp) => rows.sort_by(by(|r| r.lwp)),
            Some(Order::Harmful) => rows.sort_by(by(|r| r.lwp_harmful)),
            _ => rows.sort_by(by(|r| r.acquires)),
        }
        rows
    }

    /// Incidents that pass the filter, in order.
    pub fn incidents<'a>(&self, log: impl DoubleEndedIterator<Item = &'a Logged>) -> Vec<&'a Logged> {
        let mut rows: Vec<_> = log
            .rev()
            .filter(|logged| {
                let r = &logged.record;
                let place = Place { vm: r.vm.clone(), vcpu: r.vcpu }.to_string();
                self.lets_pass(&[&r.kind, &place, &r.lock, &r.caller, &r.cause, &logged.run])
            })
            .collect();
        match self.order(Panel::Incidents) {
            Some(Order::Lost) => rows.sort_by_key(|logged| std::cmp::Reverse(logged.record.lost)),
            Some(Order::Off) => rows.sort_by_key(|logged| std::cmp::Reverse(logged.record.off)),
            _ => {}
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ispin_agent::model::IncidentRecord;

    fn measured() -> Measured {
        let vcpu =
            |vm: &str, vcpu, takes| (Place { vm: vm.into(), vcpu }, Rates { takes, ..Rates::default() });
        Measured {
            vcpus: vec![vcpu("vm0", 0, 5.0), vcpu("vm0", 1, 9.0), vcpu("VM1", 0, 7.0)],
            ..Measured::default()
        }
    }

    #[test]
    fn tab_goes_round_both_ways() {
        let mut ui = Ui::default();
        ui.turn(-1);
        assert_eq!(ui.focus, Panel::Incidents);
        ui.turn(2);
        assert_eq!(ui.focus, Panel::Times);
    }

    #[test]
    fn orders_go_round_and_panels_without_rows_have_none() {
        let mut ui = Ui::default();
        for order in Panel::Locks.orders() {
            assert_eq!(ui.order(Panel::Locks), Some(*order));
            ui.next_order(Panel::Locks);
        }
        assert_eq!(ui.order(Panel::Locks), Some(Order::Takes));
        assert_eq!(ui.order(Panel::Vcpus), Some(Order::Place));
        ui.next_order(Panel::Times);
        assert_eq!(ui.order(Panel::Times), None);
    }

    #[test]
    fn vcpus_are_sorted_by_what_was_chosen() {
        let m = measured();
        let mut ui = Ui::default();
        let takes = |ui: &Ui| ui.vcpus(&m).iter().map(|(_, r)| r.takes).collect::<Vec<_>>();
        assert_eq!(takes(&ui), [5.0, 9.0, 7.0]);
        ui.next_order(Panel::Vcpus);
        assert_eq!(takes(&ui), [9.0, 7.0, 5.0]);
    }

    #[test]
    fn the_filter_looks_at_names_without_case() {
        let m = measured();
        let mut ui = Ui { filter: "vm1".into(), ..Ui::default() };
        assert_eq!(ui.vcpus(&m).len(), 1);
        ui.filter = "/0".into();
        assert_eq!(ui.vcpus(&m).len(), 2);
        ui.filter = "none".into();
        assert!(ui.vcpus(&m).is_empty());
    }

    #[test]
    fn incidents_are_newest_first_until_told_otherwise() {
        let logged = |id, lost| Logged {
            id,
            elapsed_ns: 0,
            run: "ticket".into(),
            time_unit: "ns".into(),
            record: IncidentRecord { lost, ..IncidentRecord::default() },
        };
        let log = [logged(0, 5), logged(1, 9), logged(2, 7)];
        let mut ui = Ui::default();
        let ids = |ui: &Ui| ui.incidents(log.iter()).iter().map(|l| l.id).collect::<Vec<_>>();
        assert_eq!(ids(&ui), [2, 1, 0]);
        ui.next_order(Panel::Incidents);
        assert_eq!(ids(&ui), [1, 2, 0]);
    }
}
