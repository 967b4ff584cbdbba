//! How long, with which numbers, and with which tools.

/// Whether the long form was asked for.
pub fn is_long() -> bool {
    std::env::var_os("SENDIMAGE_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// How often: in the selection, and in the long form.
pub fn scale(fast: usize, long: usize) -> usize {
    if is_long() { long } else { fast }
}

/// What random choices begin with.
pub fn seed() -> u64 {
    std::env::var("SENDIMAGE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121)
}

/// Random choices, the same on every machine: a stream of their own for each `purpose`.
pub fn random(purpose: &str) -> fastrand::Rng {
    let mixed = purpose.bytes().fold(seed(), |state, byte| state.wrapping_mul(0x100_0000_01B3) ^ u64::from(byte));
    fastrand::Rng::with_seed(mixed)
}

/// Whether this user may mount file systems, make loop devices and trace any process.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
