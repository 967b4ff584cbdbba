//! What appears or changes, found out by whatever tells: the kernel, Postgres, or looking again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::sync::mpsc::{Sender, unbounded_channel};

use super::originals::{Next, Place, of_catalogue, of_source};
use crate::{
    catalogue::{Catalogue, Change, listen},
    config::{Config, SourceKind},
    model::{ImageId, MediaPath, SourceRef},
    source::Source,
    upkeep::{Candidates, Folder, Original, Seen, Told, WatchError, files, rows},
};

/// Before a folder that is away is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// How a place is looked through.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// Where nobody tells of changes.
    pub every: Duration,
    /// Whether what is there at the beginning counts as new.
    pub all: bool,
}

/// Whoever takes what is found has gone.
struct Gone;

/// Looks out for what appears or changes in a place, for as long as somebody takes it.
pub async fn look_out(place: Place, looks: Looks, config: Config, found: Sender<Next>) {
    let _: Result<(), Gone> = match place {
        Place::Rows(catalogue) => look_out_for_rows(catalogue, looks, &config, &found).await,
        Place::Files { name, source, candidates } => {
            let section = config.sources.get(&name);
            let root = section.filter(|section| section.kind == SourceKind::Fs).map(|section| section.root.clone());
            let files = Files { name, source, candidates, found };
            match root {
                Some(root) => files.watch(root, looks).await,
                None => files.look_again(looks).await,
            }
        }
    };
}

async fn tell(found: &Sender<Next>, next: Next) -> Result<(), Gone> {
    found.send(next).await.map_err(|_| Gone)
}

async fn look_out_for_rows(
    catalogue: Arc<dyn Catalogue>,
    looks: Looks,
    config: &Config,
    found: &Sender<Next>,
) -> Result<(), Gone> {
    let mut seen = Seen::default();
    let section = &config.catalogue;
    if let Some(channel) = &section.listen {
        let (told, mut changes) = unbounded_channel();
        match listen(section, channel, told) {
            Ok(()) => tracing::info!(channel, all = looks.all, "watching rows: Postgres tells of them"),
            Err(error) => tracing::error!(%error, "changed rows are not told of"),
        }
        let mut is_first = true;
        while let Some(change) = changes.recv().await {
            match change {
                Change::Row(ImageId(id)) => tell(found, Ok(Original::named(&id.to_string()))).await?,
                Change::Any => {
                    look_through_rows(&catalogue, &mut seen, !is_first || looks.all, found).await?;
                    is_first = false;
                }
            }
        }
        return Ok(());
    }
    tracing::info!(
        every_seconds = looks.every.as_secs_f64(),
        all = looks.all,
        "watching rows: the catalogue is walked again"
    );
    let mut counts = looks.all;
    loop {
        let whole = look_through_rows(&catalogue, &mut seen, counts, found).await?;
        // A first walk that broke off has not met what was there.
        counts |= whole;
        tokio::time::sleep(looks.every).await;
    }
}

/// Tells of new and changed rows, if they count. Whether it came to its end.
async fn look_through_rows(
    catalogue: &Arc<dyn Catalogue>,
    seen: &mut Seen,
    counts: bool,
    found: &Sender<Next>,
) -> Result<bool, Gone> {
    let mut walk = rows(catalogue.clone());
    while let Some(row) = walk.next().await {
        match row {
            Ok(row) if seen.row(&row) && counts => tell(found, Ok(Original::row(row))).await?,
            Ok(_) => {}
            Err(error) => {
                seen.broken_off();
                tell(found, Err(of_catalogue(&error))).await?;
                return Ok(false);
            }
        }
    }
    seen.end_of_walk();
    Ok(true)
}

/// A source's files.
struct Files {
    name: String,
    source: Arc<dyn Source>,
    candidates: Candidates,
    found: Sender<Next>,
}

impl Files {
    fn original(&self, path: MediaPath) -> Original {
        Original::file(SourceRef { source: self.name.clone(), path })
    }

    /// By the kernel's word.
    async fn watch(&self, root: PathBuf, looks: Looks) -> Result<(), Gone> {
        let (mut counts, mut was_away) = (looks.all, false);
        loop {
            match Folder::watch(root.clone(), self.candidates.clone()).await {
                Ok(mut folder) => {
                    tracing::info!(source = self.name, root = %root.display(), all = counts, "watching files");
                    if counts {
                        // Watched first: what comes meanwhile is told of.
                        self.look_through(&mut Seen::default(), true).await?;
                    }
                    while let Some(told) = folder.next().await {
                        match told {
                            Told::File(path) => tell(&self.found, Ok(self.original(path))).await?,
                            Told::Any => {
                                tracing::warn!(
                                    source = self.name,
                                    "more changed than could be told of: everything is looked at"
                                );
                                self.look_through(&mut Seen::default(), true).await?;
                            }
                        }
                    }
                    tracing::warn!(source = self.name, root = %root.display(), "the folder is another one, or gone");
                    was_away = false;
                }
                Err(WatchError::TooMany) => {
                    tracing::error!(
                        source = self.name,
                        every_seconds = looks.every.as_secs_f64(),
                        "more folders than the kernel lets us watch (raise fs.inotify.max_user_watches, or max_user_instances): \
                         they are walked again and again instead"
                    );
                    return self.look_again(Looks { all: counts, ..looks }).await;
                }
                Err(WatchError::Away(error)) if !was_away => {
                    tracing::warn!(source = self.name, error, "not to be watched yet");
                    was_away = true;
                }
                Err(WatchError::Away(_)) => {}
            }
            // What comes back may have changed meanwhile.
            counts = true;
            if self.found.is_closed() {
                return Err(Gone);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// By looking again.
    async fn look_again(&self, looks: Looks) -> Result<(), Gone> {
        let every_seconds = looks.every.as_secs_f64();
        tracing::info!(source = self.name, every_seconds, all = looks.all, "watching files: they are listed again");
        let (mut seen, mut counts) = (Seen::default(), looks.all);
        loop {
            counts |= self.look_through(&mut seen, counts).await?;
            tokio::time::sleep(looks.every).await;
        }
    }

    /// Tells of new and changed files, if they count. Whether it came to its end.
    async fn look_through(&self, seen: &mut Seen, counts: bool) -> Result<bool, Gone> {
        let Some(mut walk) = files(self.source.clone(), self.candidates.clone()) else { return Ok(true) };
        let mut whole = true;
        while let Some(file) = walk.next().await {
            match file {
                Ok(file) if seen.file(&file) && counts => tell(&self.found, Ok(self.original(file.path))).await?,
                Ok(_) => {}
                Err(error) => {
                    whole = false;
                    tell(&self.found, Err(of_source(&self.name, &error))).await?;
                }
            }
        }
        if whole {
            seen.end_of_walk()
        } else {
            seen.broken_off()
        }
        Ok(whole)
    }
}
