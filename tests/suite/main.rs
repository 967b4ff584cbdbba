//! Behaviour tests: one binary, one file for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod animations;
mod browser;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod buckets;
mod cli;
mod clients;
mod decoders;
mod forward;
mod geometry;
mod handoff;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod harness;
mod hits;
mod http;
mod keys;
mod migration;
mod negotiation;
mod nginx_conf;
mod offload;
mod operations;
mod ops;
mod pictures;
mod python;
mod render_cost;
mod renders;
mod renditions;
mod s3;
mod svg;
mod tokens;
mod vectors;
mod verdicts;
mod wagtail_site;
mod workers;
