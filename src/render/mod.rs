//! Bytes and a plan to bytes. Plain synchronous functions without a runtime; everything that touches pixels runs inside a
//! render worker, and nothing here may be called by the gate but [`plan`] and [`limits`], which are arithmetic.

pub mod limits;
pub mod plan;
