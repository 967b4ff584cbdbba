//! Behaviour tests: one binary, one file for each behaviour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod geometry;
mod nginx_conf;
mod pictures;
mod render_cost;
mod renditions;
mod vectors;
mod workers;
