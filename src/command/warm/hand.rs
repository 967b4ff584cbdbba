//! Who renders: a running service, or this process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    Wanted,
    service::{CallError, Found, Service},
};
use crate::{
    app::App,
    command::{CommandError, ops_client::in_one_call},
    config::Config,
    upkeep::{self, MAX_RENDITIONS, Original, Warmed},
};

/// Beside a service on the same machine that cannot be asked, and other work.
const NICENESS: i32 = 10;
/// Calls under way: while one ends, the other keeps the service at work.
const CALLS: usize = 2;
/// Images under way in this process, of which the next ones are looked up while others render.
const IMAGES: usize = 32;
/// A call takes about so long, so that a stop, and a restart of the service, lose little.
const CALL_SECONDS: (f64, f64) = (0.5, 2.0);
/// A call's most images.
const CALL_IMAGES: usize = 256;

/// Whoever renders.
pub enum Hand {
    /// A running service.
    Service {
        /// It.
        service: Box<Service>,
        /// Images of the next call.
        pace: AtomicUsize,
    },
    /// This process, with render workers of its own.
    Itself(Arc<App>),
}

impl Hand {
    /// A service that runs with this config, else this process; and which of the two it is, in words.
    pub async fn find(config: &Config, wanted: &Wanted, alone: bool) -> Result<(Self, String), CommandError> {
        let found = match alone {
            true => Found::None("as asked".into()),
            false => Service::find(config, &wanted.names).await?,
        };
        match found {
            Found::Service(service) => {
                let says = format!("through the service at {service}, behind everybody who waits");
                Ok((Self::Service { service: Box::new(service), pace: AtomicUsize::new(2) }, says))
            }
            Found::None(why) => {
                // Before there are workers, which inherit it. Who may not be nice is not.
                let _ = rustix::process::nice(NICENESS);
                let app = App::build(config).await?;
                // What another gate purges meanwhile is made again.
                upkeep::attend(&app);
                Ok((Self::Itself(app), format!("by itself, at low priority ({why})")))
            }
        }
    }

    /// Its name in the summary.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Service { .. } => "service",
            Self::Itself(_) => "itself",
        }
    }

    /// Batches under way at once.
    pub fn batches(&self) -> usize {
        match self {
            Self::Service { .. } => CALLS,
            Self::Itself(_) => IMAGES,
        }
    }

    /// Images of the next batch.
    pub fn batch_images(&self, wanted: &Wanted) -> usize {
        let most = (MAX_RENDITIONS / wanted.tasks.len().max(1)).max(1);
        match self {
            Self::Service { pace, .. } => pace.load(Relaxed).min(most),
            Self::Itself(_) => 1,
        }
    }

    /// Whether a batch has room for one more.
    pub fn has_room(batch: &[Original], next: &Original) -> bool {
        let references = batch.iter().chain([next]).map(Original::reference);
        in_one_call(references, batch.len() + 1) > batch.len()
    }

    /// How many of these, from the first on, it takes at a time.
    pub fn takes<'a>(&self, originals: impl ExactSizeIterator<Item = &'a Original>, wanted: &Wanted) -> usize {
        match self {
            Self::Service { .. } => in_one_call(originals.map(Original::reference), self.batch_images(wanted)),
            Self::Itself(_) => originals.len(),
        }
    }

    /// Makes what is not there.
    pub async fn warm(&self, batch: &[Original], wanted: &Wanted) -> Result<Warmed, CallError> {
        match self {
            Self::Itself(app) => Ok(upkeep::warm(app, batch, &wanted.tasks).await),
            Self::Service { service, pace } => {
                let references: Vec<&str> = batch.iter().map(Original::reference).collect();
                let began = Instant::now();
                let warmed = service.warm(&references, &wanted.names).await?;
                let next = next_pace(batch.len(), began.elapsed());
                pace.store(next, Relaxed);
                Ok(warmed)
            }
        }
    }

    /// Ends the workers, where it has any.
    pub async fn shut_down(&self) {
        if let Self::Itself(app) = self {
            app.shut_down().await;
        }
    }
}

/// Images of the next call, by how long this one took.
fn next_pace(images: usize, took: Duration) -> usize {
    let (short, long) = CALL_SECONDS;
    let next = match took.as_secs_f64() {
        seconds if seconds < short => images * 2,
        seconds if seconds > long => images / 2,
        _ => images,
    };
    next.clamp(1, CALL_IMAGES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::FilterSpec;

    #[test]
    fn calls_grow_while_they_are_quick() {
        assert_eq!(next_pace(2, Duration::from_millis(10)), 4);
        assert_eq!(next_pace(200, Duration::from_millis(10)), CALL_IMAGES);
        assert_eq!(next_pace(40, Duration::from_secs(1)), 40);
        assert_eq!(next_pace(40, Duration::from_secs(5)), 20);
        assert_eq!(next_pace(1, Duration::from_secs(50)), 1);
    }

    #[test]
    fn what_is_found_together_is_handed_over_as_calls_allow() {
        let task = || upkeep::tasks(FilterSpec::parse("width-1").unwrap());
        let wanted = |tasks: usize| Wanted { names: Vec::new(), tasks: (0..tasks).flat_map(|_| task()).collect() };
        let service = Hand::Service { service: Box::new(Service::at(&Config::default())), pace: AtomicUsize::new(30) };
        let takes = |originals: &[Original], tasks| service.takes(originals.iter(), &wanted(tasks));
        let (short, long) = (Original::named("42"), Original::named(&format!("media/{}.jpg", "a".repeat(2000))));
        assert_eq!(takes(&vec![short.clone(); 32], 1), 30, "as its pace is");
        assert_eq!(takes(&vec![short.clone(); 32], MAX_RENDITIONS / 2), 2);
        assert_eq!(takes(&vec![short; 32], MAX_RENDITIONS * 2), 1);
        assert!((5..30).contains(&takes(&vec![long; 32], 1)));
    }

    #[test]
    fn a_batch_stays_within_one_call() {
        let long = Original::named(&format!("media/{}.jpg", "\u{e9}".repeat(1000)));
        let mut full = vec![long.clone(); 5];
        while Hand::has_room(&full, &long) {
            full.push(long.clone());
        }
        assert!((10..40).contains(&full.len()), "{}", full.len());
    }
}
