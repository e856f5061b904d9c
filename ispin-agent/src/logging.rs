//! Messages to people, on standard error.

use std::io::Write;

use log::{Level, LevelFilter};

/// Tells the user something that belongs to the run. Unlike `eprintln!` it does not panic when standard error
/// has gone: whoever closed it does not want to know.
#[macro_export]
macro_rules! say {
    ($($message:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "ispin-agent: {}", format_args!($($message)*));
    }};
}

/// Sends log messages to standard error: warnings and errors, with `verbose` 1 also what the program does and
/// the diagnostics of eBPF programs, with 2 and more everything.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let started = env_logger::Builder::new()
        .filter_level(level)
        .format(move |out, record| match record.level() {
            Level::Error | Level::Warn => writeln!(out, "ispin-agent: {}", record.args()),
            _ => writeln!(out, "ispin-agent: [{}] {}", record.target(), record.args()),
        })
        .try_init();
    if started.is_err() {
        log::debug!("a logger is at work already");
    }
}
