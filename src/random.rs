//! Names that nobody else has.

use std::{
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// A name of hexadecimal digits, unlike any other on this machine or another.
pub fn random_name() -> String {
    let mut bytes = [0; 16];
    // Without randomness, which no running system lacks, the time tells containers apart whose processes have one number.
    if getrandom::fill(&mut bytes).is_err() {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(process::id());
        bytes = (u128::from(now) << 64 | u128::from(number)).to_be_bytes();
    }
    format!("{:032x}", u128::from_be_bytes(bytes))
}
