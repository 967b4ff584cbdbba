//! `sendimage warm --watch`: stays on, and renders as originals appear or change.
//!
//! What appears or changes is found out by one task for each place, and told as originals to look at: a rendition that is
//! there already is passed quickly, so that telling too much costs little, and nothing is remembered that a restart would lose.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{Receiver, Sender, channel},
};

use super::{
    Arguments, Wanted,
    changes::{Looks, look_out},
    hand::Hand,
    originals::{Next, Place, originals},
};
use crate::{
    command::{CommandResult, service_manager},
    config::Config,
    upkeep::{Failure, Original, Warmed},
};

/// Originals that wait to be seen to; whoever finds more waits.
const WAITING: usize = 4096;
/// Originals seen to together.
const BATCH: usize = 32;
/// An original that failed is tried again so much later: a row may be there before its file, and a disk full for a while.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(120)];
/// Before a service that is away is asked again.
const PAUSE: Duration = Duration::from_secs(2);

pub async fn watch(arguments: &Arguments, config: &Config, wanted: &Wanted) -> CommandResult {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let places = Place::all(arguments, config)?;
    let (hand, says) = Hand::find(config, wanted, arguments.alone).await?;
    tracing::info!(by = hand.name(), says, "rendering ahead");
    let (found, mut changes) = channel(WAITING);
    let looks = Looks { every: Duration::from_secs_f64(arguments.interval), all: arguments.all };
    let mut watchers = tokio::task::JoinSet::new();
    for place in places {
        watchers.spawn(look_out(place, looks, config.clone(), found.clone()));
    }
    // Those named are seen to once; all of a place are what it is looked through for at first.
    if !arguments.references.is_empty() || arguments.from.is_some() {
        watchers.spawn(pass_on(originals(&Arguments::named(arguments), config)?, found.clone()));
    }
    drop(found);
    service_manager::ready();
    let watchdog = tokio::spawn(service_manager::keep_watchdog_quiet());
    tokio::select! {
        () = see_to(&hand, wanted, &mut changes) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: what has not begun is left");
    service_manager::stopping();
    watchdog.abort();
    watchers.shutdown().await;
    hand.shut_down().await;
    tracing::info!("stopped");
    Ok(())
}

async fn pass_on(mut named: futures_util::stream::BoxStream<'static, Next>, found: Sender<Next>) {
    while let Some(next) = named.next().await {
        if found.send(next).await.is_err() {
            return;
        }
    }
}

/// Those that failed, to be tried again.
#[derive(Default)]
struct Again(HashMap<String, (usize, Instant, Original)>);

impl Again {
    /// Notes a failure; `false` when it has been tried often enough.
    fn note(&mut self, original: &Original, attempt: usize) -> bool {
        let Some(wait) = AGAIN.get(attempt) else { return false };
        let entry = (attempt + 1, Instant::now() + *wait, original.clone());
        self.0.insert(original.reference().to_owned(), entry);
        true
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|(_, due, _)| *due).min()
    }

    /// Those whose time has come, with the attempts so far.
    fn due(&mut self, most: usize) -> Vec<(usize, Original)> {
        let now = Instant::now();
        let due: Vec<String> =
            self.0.iter().filter(|(_, (_, due, _))| *due <= now).map(|(name, _)| name.clone()).take(most).collect();
        due.iter().filter_map(|name| self.0.remove(name)).map(|(attempt, _, original)| (attempt, original)).collect()
    }
}

/// Sees to what is found, until nobody looks out any more.
async fn see_to(hand: &Hand, wanted: &Wanted, changes: &mut Receiver<Next>) {
    let mut again = Again::default();
    loop {
        let mut batch = again.due(BATCH);
        let wake = again.next();
        if batch.is_empty() {
            tokio::select! {
                next = changes.recv() => match next {
                    Some(next) => take(next, &mut batch),
                    None if wake.is_none() => return,
                    // The last failures are left.
                    None => tokio::time::sleep(PAUSE).await,
                },
                () = sleep_until(wake) => continue,
            }
        }
        while batch.len() < BATCH {
            match changes.try_recv() {
                Ok(next) => take(next, &mut batch),
                Err(_) => break,
            }
        }
        // An event often comes with others of the same file.
        let mut seen = std::collections::HashSet::new();
        batch.retain(|(_, original)| seen.insert(original.reference().to_owned()));
        for (_, original) in &batch {
            again.0.remove(original.reference());
        }
        while !batch.is_empty() {
            let rest = batch.split_off(hand.takes(batch.iter().map(|(_, original)| original), wanted));
            see_to_batch(hand, wanted, batch, &mut again).await;
            batch = rest;
        }
    }
}

fn take(next: Next, batch: &mut Vec<(usize, Original)>) {
    match next {
        Ok(original) => batch.push((0, original)),
        Err(Failure { reference, reason, says, .. }) => {
            tracing::warn!(place = reference, %reason, says, "not looked through")
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

async fn see_to_batch(hand: &Hand, wanted: &Wanted, batch: Vec<(usize, Original)>, again: &mut Again) {
    let originals: Vec<Original> = batch.iter().map(|(_, original)| original.clone()).collect();
    let warmed = loop {
        match hand.warm(&originals, wanted).await {
            Ok(warmed) => break warmed,
            Err(error) => tracing::warn!(%error, "nothing is rendered ahead for the moment"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    let Warmed { created, present, failed, failures } = &warmed;
    let count: u64 = failed.values().sum();
    let is_news = *created > 0 || count > 0;
    if is_news {
        tracing::info!(images = originals.len(), created, present, failed = count, "rendered ahead");
    }
    // Only the first are named; where there are more, any may have failed.
    let are_all_named = failures.len() < Warmed::MOST_FAILURES;
    for (attempt, original) in &batch {
        let failure = failures.iter().find(|failure| failure.reference == original.reference());
        if failure.is_none() && (are_all_named || count == 0) {
            continue;
        }
        let reason = failure.map_or("", |failure| &failure.reason);
        let says = failure.map_or("", |failure| &failure.says);
        // A row that is gone again, and what no second attempt changes: another version of the file is another event.
        let is_final = matches!(reason, "unknown" | "impossible" | "over_limit");
        if reason == "unknown" {
            tracing::debug!(image = original.reference(), "there is no such image any more");
        } else if is_final || !again.note(original, *attempt) {
            let spec = failure.and_then(|failure| failure.spec.as_deref()).unwrap_or_default();
            tracing::warn!(image = original.reference(), spec, reason, says, "not rendered ahead");
        }
    }
}
