//! sendimage: signed image renditions, rendered once and streamed by nginx.

pub mod metrics;
pub mod model;
pub mod render;
pub mod spec;
pub mod workers;
