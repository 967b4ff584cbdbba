//! What must hold when something breaks or somebody means harm: the built binary with a real nginx and real file systems,
//! killed, starved, lied to and flooded.
//!
//! Every test has two lengths. `cargo test --test faults` takes a selection of each within minutes; with
//! `SENDIMAGE_LONG=1` (`tests/run --faults`) the same tests run at the numbers that README's reliability chapter quotes. Random
//! choices come from a printed seed (`SENDIMAGE_SEED` sets it). What a test has counted goes to [`report`].
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bomb_files;
mod bombs;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/buckets.rs"]
mod buckets;
mod calls;
mod catalogue;
mod client;
mod cluster;
mod crash;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/databases.rs"]
mod database_servers;
mod databases;
mod disks;
mod floods;
mod forgery;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/gate.rs"]
mod gate;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/harness.rs"]
mod harness;
mod hijack;
mod history;
mod hosts;
mod index;
mod leaks;
mod life_cycle;
mod load;
mod mounts;
mod mutants;
mod names;
mod power;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/redis_server.rs"]
mod redis_server;
mod remembered;
mod remote;
mod renders;
mod report;
mod requests;
mod rule;
mod sandbox;
mod smuggling;
mod sources;
mod specs;
mod strace;
#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/stub.rs"]
mod stub;
mod timing;
mod tools;
mod transfers;

#[allow(dead_code, reason = "shared with the suite, which uses the rest")]
#[path = "../suite/vectors.rs"]
mod vectors;
