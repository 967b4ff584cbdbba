//! One run over the originals, to its end.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{BoxStream, FuturesUnordered},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Arguments, Wanted,
    hand::Hand,
    originals::{Next, Place, originals},
    progress::Progress,
    service::CallError,
    summary::Summary,
};
use crate::{
    command::{CommandError, CommandResult, print_json, say},
    config::Config,
    upkeep::Warmed,
};

/// What is shown is brought up to date so often.
const TICK: Duration = Duration::from_millis(250);

pub async fn run(arguments: &Arguments, config: &Config, wanted: &Wanted) -> CommandResult {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let to_do = originals(arguments, config)?;
    let (hand, says) = Hand::find(config, wanted, arguments.alone).await?;
    let began = Instant::now();
    let summary = Mutex::new(Summary::new(hand.name()));
    let mut progress = Progress::begin(arguments.json, &says);
    let ended = {
        let mut work = std::pin::pin!(each(&hand, to_do, wanted, |images, warmed| add(&summary, images, warmed)));
        let mut count = std::pin::pin!(count(arguments, config));
        let mut ticks = tokio::time::interval(TICK);
        let mut counted = false;
        loop {
            tokio::select! {
                ended = &mut work => break ended.map_err(|error| error.to_string()),
                total = &mut count, if !counted => {
                    counted = true;
                    if let Some(total) = total {
                        progress.set_total(total);
                    }
                }
                _ = ticks.tick() => progress.update(&lock(&summary)),
                _ = interrupt.recv() => break Err("SIGINT".to_owned()),
                _ = terminate.recv() => break Err("SIGTERM".to_owned()),
            }
        }
    };
    progress.end();
    hand.shut_down().await;
    let mut summary = summary.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary.took(began.elapsed());
    if let Err(why) = &ended {
        summary.interrupted = true;
        say(format_args!("sendimage: {why}"));
    }
    match arguments.json {
        true => print_json(&summary)?,
        false => summary.report().print()?,
    }
    if summary.is_good() { Ok(()) } else { Err(CommandError::Silent) }
}

fn lock(summary: &Mutex<Summary>) -> std::sync::MutexGuard<'_, Summary> {
    summary.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn add(summary: &Mutex<Summary>, images: u64, warmed: Warmed) {
    lock(summary).add(images, warmed);
}

/// Sees to every original, batch by batch, as they come. Dropped, it leaves what has not begun.
pub(super) async fn each(
    hand: &Hand,
    mut originals: BoxStream<'_, Next>,
    wanted: &Wanted,
    done: impl Fn(u64, Warmed),
) -> Result<(), CallError> {
    let mut under_way = FuturesUnordered::new();
    let (mut left_over, mut ended) = (None, false);
    loop {
        if ended || under_way.len() >= hand.batches() {
            match under_way.next().await {
                Some((images, warmed)) => done(images, warmed?),
                None => return Ok(()),
            }
            continue;
        }
        let first = match left_over.take() {
            Some(original) => Some(Ok(original)),
            None => tokio::select! {
                next = originals.next() => next,
                Some((images, warmed)) = under_way.next() => {
                    done(images, warmed?);
                    continue;
                }
            },
        };
        let mut batch = Vec::new();
        let mut next = first;
        // As many as there are by now: whoever feeds us slowly is not waited for.
        loop {
            match next {
                Some(Ok(original)) if batch.is_empty() || Hand::has_room(&batch, &original) => batch.push(original),
                Some(Ok(original)) => left_over = Some(original),
                Some(Err(failure)) => done(0, Warmed::of_failure(failure)),
                None => ended = true,
            }
            if ended || left_over.is_some() || batch.len() >= hand.batch_images(wanted) {
                break;
            }
            match originals.next().now_or_never() {
                Some(ready) => next = ready,
                None => break,
            }
        }
        if !batch.is_empty() {
            under_way.push(async move { (batch.len() as u64, hand.warm(&batch, wanted).await) });
        }
    }
}

/// How many originals there are, where that can be found out beforehand.
async fn count(arguments: &Arguments, config: &Config) -> Option<u64> {
    if arguments.from.is_some() {
        return None;
    }
    let named = arguments.references.len() as u64;
    if !arguments.all {
        return Some(named);
    }
    let mut found = named;
    for place in Place::all(arguments, config).ok()? {
        let mut walk = place.walk();
        while let Some(next) = walk.next().await {
            found += u64::from(next.is_ok());
        }
    }
    Some(found)
}
