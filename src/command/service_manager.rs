//! What a service manager is told (systemd's notify protocol), if there is one that listens.

use sd_notify::NotifyState;

/// Requests are answered from now on.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A changed config is being applied; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// No new connections; those there are end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says, twice in each period of the manager's watchdog, that this process still gets things done: it ends when the runtime
/// hangs. Returns at once where no watchdog waits.
pub(super) async fn keep_watchdog_quiet() {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else { return };
    let mut ticks = tokio::time::interval(period / 2);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// That the manager cannot be told is no reason to fail.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
