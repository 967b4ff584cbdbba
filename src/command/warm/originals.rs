//! Which originals a run is about.

use std::{io::BufRead, path::Path, sync::Arc};

use anyhow::Context as _;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;

use super::Arguments;
use crate::{
    app,
    catalogue::{Catalogue, CatalogueError},
    command::say,
    config::{CatalogueKind, Config},
    model::SourceRef,
    source::{Source, SourceError},
    upkeep::{Candidates, Failure, Original, files, rows},
};

/// An original, or what could not be walked.
pub type Next = Result<Original, Failure>;

/// What can be walked.
#[derive(Clone)]
pub enum Place {
    /// A catalogue's rows.
    Rows(Arc<dyn Catalogue>),
    /// A source's files.
    Files { name: String, source: Arc<dyn Source>, candidates: Candidates },
}

impl Place {
    /// What `--all` and `--watch` are about: the sources that are named, else the catalogue, else all sources.
    pub fn all(arguments: &Arguments, config: &Config) -> Result<Vec<Self>, anyhow::Error> {
        let (catalogue, sources) = app::walkable(config)?;
        let section = &config.catalogue;
        if arguments.sources.is_empty() && section.kind != CatalogueKind::None {
            if section.kind.is_database() && section.query.is_some() && section.list_query.is_none() {
                anyhow::bail!(
                    "catalogue.query is your own: set catalogue.list_query too, which gives the rows after an id \
                     (SELECT id, ... WHERE id > ... ORDER BY id LIMIT 1000), or name a source with --source"
                );
            }
            return Ok(vec![Self::Rows(catalogue)]);
        }
        let mut places = Vec::new();
        for name in
            if arguments.sources.is_empty() { sources.keys().cloned().collect() } else { arguments.sources.clone() }
        {
            let source = sources.get(&name).with_context(|| format!("there is no [sources.{name}] in the config"))?;
            if source.list().is_none() {
                let says = format!("nobody can tell which files there are in {name:?}, a source by HTTP: name them");
                if !arguments.sources.is_empty() {
                    anyhow::bail!(says);
                }
                say(format_args!("sendimage: {says}"));
                continue;
            }
            places.push(Self::Files { candidates: Candidates::new(config, &name), source: source.clone(), name });
        }
        if places.is_empty() {
            anyhow::bail!("the config has neither a catalogue nor a source whose files can be listed");
        }
        Ok(places)
    }

    /// All that there is.
    pub fn walk(&self) -> BoxStream<'static, Next> {
        match self {
            Self::Rows(catalogue) => {
                rows(catalogue.clone()).map(|row| row.map(Original::row).map_err(|error| of_catalogue(&error))).boxed()
            }
            Self::Files { name, source, candidates } => {
                let files = files(source.clone(), candidates.clone()).unwrap_or_else(|| stream::empty().boxed());
                let (file_in, error_in) = (name.clone(), name.clone());
                let file = move |path| Original::file(SourceRef { source: file_in.clone(), path });
                files
                    .map(move |met| met.map(|met| file(met.path)).map_err(|error| of_source(&error_in, &error)))
                    .boxed()
            }
        }
    }
}

/// All that the arguments name. It is taken as it comes, whatever its length.
pub fn originals(arguments: &Arguments, config: &Config) -> Result<BoxStream<'static, Next>, anyhow::Error> {
    let named: Vec<Next> = arguments.references.iter().map(|reference| Ok(Original::named(reference))).collect();
    let mut originals = stream::iter(named).boxed();
    if let Some(file) = &arguments.from {
        originals = originals.chain(lines(file)?).boxed();
    }
    if arguments.all {
        for place in Place::all(arguments, config)? {
            originals = originals.chain(place.walk()).boxed();
        }
    }
    Ok(originals)
}

/// The references of a file, line by line.
fn lines(file: &Path) -> Result<BoxStream<'static, Next>, anyhow::Error> {
    let reader: Box<dyn BufRead + Send> = match file.to_str() {
        Some("-") => Box::new(std::io::BufReader::new(std::io::stdin())),
        _ => {
            let open = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
            Box::new(std::io::BufReader::new(open))
        }
    };
    let name = file.display().to_string();
    let (read, taken) = mpsc::channel(256);
    // A thread of its own: one that waits for standard input must not keep the process from its end.
    std::thread::spawn(move || {
        for line in reader.lines() {
            let next = match line {
                Ok(line) if line.trim().is_empty() || line.trim_start().starts_with('#') => continue,
                Ok(line) => Ok(Original::named(line.trim())),
                Err(error) => Err(failure(&name, "source", &error)),
            };
            let broken = next.is_err();
            if read.blocking_send(next).is_err() || broken {
                return;
            }
        }
    });
    Ok(stream::unfold(taken, |mut taken| async move { taken.recv().await.map(|next| (next, taken)) }).boxed())
}

pub(super) fn of_catalogue(error: &CatalogueError) -> Failure {
    failure("the catalogue", "catalogue", error)
}

pub(super) fn of_source(name: &str, error: &SourceError) -> Failure {
    failure(name, "source", error)
}

fn failure(reference: &str, reason: &'static str, error: &dyn std::fmt::Display) -> Failure {
    Failure { reference: reference.to_owned(), spec: None, reason: reason.into(), says: error.to_string() }
}
