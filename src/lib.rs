//! sendimage: signed image renditions, rendered once and streamed by nginx.

pub mod access;
pub mod catalogue;
pub mod config;
pub mod metrics;
pub mod model;
pub mod nginx;
pub mod render;
pub mod sample;
pub mod source;
pub mod spec;
pub mod store;
pub mod workers;
