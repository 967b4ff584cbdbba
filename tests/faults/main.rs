//! What must hold when something breaks or somebody means harm: the built binary with a real nginx and real file systems,
//! killed, starved, lied to and flooded.
//!
//! Every test has two lengths. `cargo test --test faults` takes a selection of each within minutes; with
//! `SENDIMAGE_LONG=1` (`tests/run --faults`) the same tests run at the numbers that README's reliability chapter quotes. Random
//! choices come from a printed seed (`SENDIMAGE_SEED` sets it). What a test has counted goes to [`report`].
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bomb_files;
mod bombs;
mod client;
mod floods;
mod forgery;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/harness.rs"]
mod harness;
mod hijack;
mod index;
mod leaks;
mod life_cycle;
mod load;
mod mutants;
mod names;
mod remembered;
#[allow(dead_code)]
mod report;
mod requests;
mod rule;
mod sandbox;
mod smuggling;
mod specs;
mod timing;
#[allow(dead_code)]
mod tools;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/vectors.rs"]
mod vectors;
