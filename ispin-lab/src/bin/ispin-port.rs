//! `ispin-port`: how a guest of Xen reaches the host. Runs inside guests, and in dom0.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ispin_lab::port::relay::Guest;
use ispin_lab::port::{finish, guest, relay, start};

/// Carries what a guest of Xen says over shared pages to dom0, and from there over serial ports to the host.
#[derive(Parser)]
#[command(name = "ispin-port", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// In a guest: named pipes into shared pages, until SIGTERM
    Guest {
        /// Folder of the named pipes
        folder: PathBuf,
        /// Names of the channels, in order
        channels: Vec<String>,
    },
    /// In a guest: waits for the moment at which all loads start
    Start {
        /// Folder of the named pipes
        folder: PathBuf,
        /// So much later
        #[arg(long, value_name = "US", default_value_t = 0)]
        offset_us: u64,
    },
    /// In a guest: waits until all loads have ended
    Finish {
        /// Folder of the named pipes
        folder: PathBuf,
    },
    /// In dom0: shared pages and consoles into serial ports, until all guests have ended
    Relay {
        /// A guest
        #[arg(long = "guest", value_name = "NAME:DOMAIN", required = true)]
        guests: Vec<Guest>,
        /// Folder of the consoles' logs
        #[arg(long, value_name = "DIR", default_value = "/var/log/xen/console")]
        consoles: PathBuf,
        /// Names of the channels, in order
        channels: Vec<String>,
    },
}

fn main() -> ExitCode {
    env_logger::init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ispin-port: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Cmd) -> Result<()> {
    match command {
        Cmd::Guest { folder, channels } => guest::serve(&folder, &channels),
        Cmd::Start { folder, offset_us } => start::wait(&folder, offset_us),
        Cmd::Finish { folder } => finish::wait(&folder),
        Cmd::Relay { guests, consoles, channels } => {
            relay::run(&guests, &channels, &consoles, &mut io::stdout().lock())
        }
    }
}
