//! Behaviour tests: one binary, one file for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod animations;
mod backends;
mod browser;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod buckets;
mod budget;
mod catalogues;
mod cli;
mod clients;
mod dashboards;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod databases;
mod decoders;
mod doctor;
mod forward;
mod gate;
mod gates;
mod gc;
mod geometry;
mod handoff;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod harness;
mod hits;
mod http;
mod http_source;
mod inspect;
mod keys;
mod migration;
mod negotiation;
mod nginx_conf;
mod observability;
mod offload;
mod operations;
mod ops;
mod packages;
mod page;
mod page_browser;
mod pictures;
mod python;
#[allow(dead_code, reason = "shared with tests/faults, which uses the rest")]
mod redis_server;
mod reference;
mod render_cost;
mod renders;
mod renditions;
mod s3;
mod servers;
mod stub;
mod svg;
mod tokens;
#[cfg(feature = "otel")]
mod traces;
mod vectors;
mod verdicts;
mod wagtail_site;
mod warm;
mod watch;
mod web_server;
mod webdriver;
mod workers;
