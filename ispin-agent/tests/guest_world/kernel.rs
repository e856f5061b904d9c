//! The guest in the kernel: the loaded eBPF programs, run with made-up arguments.

use ispin_agent::bpf::guest::GuestPrograms;
use ispin_common::event::Event;
use ispin_common::incident::Incident;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Lane, World};

/// See the module.
pub struct KernelWorld {
    programs: GuestPrograms,
    /// The CPU that plays each vCPU.
    cpus: Vec<u32>,
}

impl KernelWorld {
    /// Loads the programs; a kernel that refuses them fails the test.
    pub fn new() -> Self {
        let programs = GuestPrograms::load().unwrap_or_else(|e| panic!("{e:#}"));
        let cpus = aya::util::online_cpus().unwrap_or_else(|(what, e)| panic!("{what}: {e}"));
        Self { programs, cpus }
    }

    /// Why programs cannot be loaded here, whatever they are; `None` if they can.
    pub fn unavailable() -> Option<String> {
        let effective = match capabilities(None) {
            Ok(sets) => sets.effective,
            Err(e) => return Some(format!("cannot read this process's capabilities: {e}")),
        };
        let bpf = CapabilitySet::BPF | CapabilitySet::PERFMON;
        if !effective.contains(CapabilitySet::SYS_ADMIN) && !effective.contains(bpf) {
            return Some("loading eBPF programs needs root, or CAP_BPF and CAP_PERFMON".into());
        }
        None
    }

    /// How many vCPUs can be played.
    pub fn vcpus(&self) -> usize {
        self.cpus.len()
    }

    /// As new.
    pub fn clear(&mut self) {
        self.programs.clear().unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// The programs, with what they counted.
    pub fn into_programs(self) -> GuestPrograms {
        self.programs
    }

    fn vcpu_of(&self, cpu: u32) -> u32 {
        let at = self.cpus.iter().position(|&known| known == cpu);
        at.unwrap_or_else(|| panic!("an event on CPU {cpu}, which plays no vCPU")) as u32
    }
}

impl World for KernelWorld {
    fn enable(&mut self, enabled: bool) {
        self.programs.enable(enabled).unwrap_or_else(|e| panic!("{e:#}"));
    }

    fn set_csd(&mut self, csd: u64) {
        self.programs.set_csd(csd);
    }

    fn feed(&mut self, event: &Event, vcpu: u32) {
        let cpu = self.cpus[vcpu as usize];
        self.programs.feed(event, cpu).unwrap_or_else(|e| panic!("{e:#}"));
    }

    fn lanes(&self) -> Vec<Lane> {
        let lanes = self.programs.lanes();
        let lane = |lane: &ispin_agent::bpf::guest::Lane| Lane {
            vcpu: self.vcpu_of(lane.cpu),
            level: lane.level,
            counts: lane.counts.clone(),
        };
        lanes.iter().map(lane).collect()
    }

    fn take_incidents(&mut self) -> Vec<Incident> {
        let mut incidents = self.programs.take_incidents();
        for incident in &mut incidents {
            incident.vcpu = self.vcpu_of(incident.vcpu);
        }
        incidents
    }
}
