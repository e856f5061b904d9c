//! What the dashboard knows, apart from how it draws it.
//!
//! | module | concept |
//! |---|---|
//! | [`measured`] | figures between two snapshots |
//! | [`history`] | the course of the PSP rate |
//! | [`incidents`] | the log of incidents |
//! | [`observed`] | all that was learnt from snapshots, runs and baseline included |
//! | [`ui`] | what the person at the keys chose: panel, row, order, filter |
//! | [`app`] | all of it together; takes updates and actions |

pub mod app;
pub mod history;
pub mod incidents;
pub mod measured;
pub mod observed;
pub mod ui;
