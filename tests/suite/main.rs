//! Behaviour tests: one binary, one file for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod animations;
mod browser;
mod cli;
mod decoders;
mod geometry;
mod handoff;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod harness;
mod hits;
mod http;
mod migration;
mod negotiation;
mod nginx_conf;
mod offload;
mod operations;
mod pictures;
mod render_cost;
mod renders;
mod renditions;
mod svg;
mod vectors;
mod verdicts;
mod wagtail_site;
mod workers;
