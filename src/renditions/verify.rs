//! Looks at what is stored, as nobody does when it is served.

use super::Renditions;
use crate::{store::RenditionFile, workers::JobError};

/// What was found of a stored rendition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every pixel of it is there.
    Whole,
    /// It is not what was written; what is wrong with it.
    Damaged(String),
    /// It was removed meanwhile.
    Gone,
    /// It could not be looked at, and nothing is known of it: why.
    Unknown(String),
}

impl Renditions {
    /// Has a render worker decode a stored rendition, behind everything that somebody waits for.
    pub async fn verify(&self, rendition: &RenditionFile) -> Condition {
        if rendition.bytes == 0 {
            return Condition::Damaged("it is empty".to_owned());
        }
        let file = match self.store.open(&rendition.path).await {
            Ok(Some(file)) => file,
            Ok(None) => return Condition::Gone,
            Err(error) => return Condition::Unknown(error.to_string()),
        };
        let facts = match self.pool.probe(&file, self.deadline()).await {
            Ok(facts) if facts.format == rendition.format => facts,
            Ok(facts) => return Condition::Damaged(format!("it is a {} file", facts.format)),
            Err(error) => return condition(error),
        };
        match self.pool.verify(&file, &facts, self.deadline()).await {
            Ok(()) => Condition::Whole,
            Err(error) => condition(error),
        }
    }
}

/// What a job's failure says of the file. What a bound of this config, a full queue or a lost worker keeps from being looked at
/// may be as good as any.
fn condition(error: JobError) -> Condition {
    match error {
        JobError::Render(_) | JobError::Poison { .. } | JobError::NotAFile => Condition::Damaged(error.to_string()),
        // The disk's own words for what it cannot read: `EIO`.
        JobError::Source(_) => Condition::Damaged(error.to_string()),
        JobError::QueueFull
        | JobError::OverLimit(_)
        | JobError::Output(_)
        | JobError::SourceChanged
        | JobError::TimedOut { .. }
        | JobError::Unwanted
        | JobError::Lost
        | JobError::ShuttingDown => Condition::Unknown(error.to_string()),
    }
}
