//! The dashboard: shows snapshots on a terminal.
//!
//! The state knows nothing of drawing, a panel changes nothing, and both know only snapshots: where these come
//! from is the feed's business.
//!
//! | module | concept |
//! |---|---|
//! | [`feed`] | where snapshots come from: a source in this process, a socket, a file |
//! | [`state`] | what is known and chosen: figures, history, incidents, baseline, selection |
//! | [`keys`] | the key map |
//! | [`input`] | key presses from a terminal's bytes |
//! | [`panels`] | the parts of the screen, one file each |
//! | [`screen`] | where they stand |
//! | [`theme`] | colours by meaning |
//! | [`format`](mod@format) | numbers as people read them |
//! | [`run`](mod@run) | the loop |
//! | [`plan`], [`sleep`] | wake-ups that are announced before they come |
//! | [`terminal`], [`resize`] | the terminal, its size, and its way back whatever happens |
//! | [`svg`] | a picture of the screen as a file |
//! | [`cli`], [`options`], [`open`], [`notes`] | the program `ispin-tui`: command line, source and COMMAND, late warnings |
#![deny(missing_docs)]

pub mod cli;
pub mod feed;
pub mod format;
pub mod input;
pub mod keys;
pub mod notes;
pub mod open;
pub mod options;
pub mod panels;
pub mod plan;
pub mod resize;
pub mod run;
pub mod screen;
pub mod sleep;
pub mod state;
pub mod svg;
pub mod terminal;
pub mod theme;

pub use run::{End, Options, Outcome, run};
