//! The words that every part of ispin shares.
//!
//! No `std`, no allocation, no dependency: this source compiles into the eBPF programs, the agent, the
//! lock library and the simulator alike, so that there is one statement of the slot layout, of the four
//! lock events and of the rule that tells lock holder preemption (LHP) from lock waiter preemption (LWP).
//!
//! | module | concept |
//! |---|---|
//! | [`slot`] | what a hypervisor publishes for a vCPU, byte for byte, and how to read it |
//! | [`capability`] | `lock_cap`, the paper's equation 1, with the cases "no slot" and "expired" |
//! | [`event`] | take, acquire, release, incapable: ten scalars each |
//! | [`classifier`] | pairs events into episodes and judges them |
//! | [`counters`] | every count that the classifier keeps, by name |
//! | [`histogram`] | log2 histograms of hold and wait |
//! | [`incident`] | one problematic spin preemption, as a record |
//! | [`reason`] | why a PSP happened although locks are informed |
//! | [`ring`] | single-producer single-consumer ring for incidents |
//! | [`table`] | bounded per-lock and per-caller tables |
//! | [`guest`] | maps that the guest programs share with the agent, and what they do with an event |
//! | [`memory`] | a look into the kernel's memory, for names |
//! | [`threads`] | memory that the threads world shares with its publisher: rows, phase word, control block |
#![no_std]
#![deny(missing_docs)]

pub mod capability;
pub mod classifier;
pub mod counters;
pub mod event;
pub mod guest;
pub mod histogram;
pub mod incident;
pub mod memory;
pub mod reason;
pub mod ring;
pub mod slot;
pub mod table;
pub mod threads;
