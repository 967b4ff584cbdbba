//! Behaviour tests: one binary, one file for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod animations;
mod backends;
mod browser;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod buckets;
mod catalogues;
mod cli;
mod clients;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod databases;
mod decoders;
mod forward;
mod gate;
mod gates;
mod geometry;
mod handoff;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod harness;
mod hits;
mod http;
mod http_source;
mod keys;
mod migration;
mod negotiation;
mod nginx_conf;
mod offload;
mod operations;
mod ops;
mod pictures;
mod python;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod redis_server;
mod render_cost;
mod renders;
mod renditions;
mod s3;
mod servers;
mod stub;
mod svg;
mod tokens;
mod vectors;
mod verdicts;
mod wagtail_site;
mod web_server;
mod workers;
