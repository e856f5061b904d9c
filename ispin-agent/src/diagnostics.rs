//! What eBPF programs say of themselves (`aya-log-ebpf`), handed to this program's log.

use aya_log::EbpfLogger;

/// The open logs of some programs.
#[derive(Default)]
pub struct Diagnostics {
    programs: Vec<u32>,
    logs: Vec<EbpfLogger<&'static dyn log::Log>>,
}

impl Diagnostics {
    /// Opens the logs of the programs with these kernel-wide numbers, unless they are open already. What the
    /// former programs still had to say is handed on first. A program that keeps no log is passed over.
    pub fn follow(&mut self, programs: &[u32]) {
        if self.programs == programs || programs.is_empty() {
            return;
        }
        self.flush();
        let open = |&id: &u32| match EbpfLogger::init_from_id(id) {
            Ok(log) => Some(log),
            Err(e) => {
                log::debug!("eBPF program {id} gives no diagnostics: {e}");
                None
            }
        };
        self.logs = programs.iter().filter_map(open).collect();
        self.programs = programs.to_vec();
    }

    /// Logs what came in. It never waits, so that it can be done in the tick.
    pub fn flush(&mut self) {
        for log in &mut self.logs {
            log.flush();
        }
    }
}
