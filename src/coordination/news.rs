//! What gates tell each other.

use std::{fmt::Display, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::{ImageId, SourceRef};

/// Longest message, in bytes: Postgres carries less than 8,000.
const MAX_BYTES: usize = 7_000;
/// News that a slow listener may be behind.
pub(super) const BACKLOG: usize = 1024;
/// After so long without news it is asked whether the server is there.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// Before a broken subscription is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// Something that the other gates should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A rendition was made: its path below the store's root, and its length.
    Made {
        /// The path.
        path: String,
        /// The length in bytes.
        bytes: u64,
    },
    /// The renditions of these images were removed.
    Purged {
        /// Where the images are.
        locations: Vec<SourceRef>,
        /// Their ids, where they were named by them: their rows are not what they were.
        ids: Vec<ImageId>,
    },
    /// Something may have been missed, or is too long to say: nothing that is remembered counts.
    Unknown,
}

/// An event, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The gate: nobody need hear its own.
    pub from: String,
    /// The event.
    pub event: Event,
}

impl News {
    /// As text.
    pub fn to_text(from: &str, event: &Event) -> String {
        let text = |event: &Event| {
            serde_json::to_string(&Self { from: from.to_owned(), event: event.clone() }).unwrap_or_default()
        };
        match text(event) {
            long if long.len() > MAX_BYTES => text(&Event::Unknown),
            text => text,
        }
    }

    /// From text: what others have told, unless it is this gate's own. What cannot be read may have been important.
    pub fn hear(text: &str, own: &str) -> Option<Event> {
        match serde_json::from_str(text) {
            Ok(Self { from, .. }) if from == own => None,
            Ok(Self { event, .. }) => Some(event),
            Err(error) => {
                tracing::warn!(%error, "another gate's news cannot be read: of another version?");
                Some(Event::Unknown)
            }
        }
    }
}

/// Hears what others tell, for as long as there is a runtime: `subscribe` ends when its connection does.
pub(super) async fn listen<E: Display>(mut subscribe: impl AsyncFnMut() -> Result<(), E>) {
    loop {
        match subscribe().await {
            Ok(()) => tracing::warn!("the news of other gates broke off; listening anew"),
            Err(error) => tracing::debug!(reason = %error, "the news of other gates cannot be heard"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MediaPath;

    #[test]
    fn what_is_told_is_heard_by_the_others() {
        let purged = |images: usize| {
            let path = MediaPath::parse("é/".repeat(20).trim_end_matches('/')).unwrap();
            let locations = vec![SourceRef { source: "media".into(), path }; images];
            Event::Purged { locations, ids: vec![ImageId(7)] }
        };
        let made = Event::Made { path: "r1/ab/abc.webp".into(), bytes: 9 };
        for event in [made, purged(3), Event::Unknown] {
            let text = News::to_text("a", &event);
            assert_eq!((News::hear(&text, "b"), News::hear(&text, "a")), (Some(event), None), "{text}");
        }
        let long = News::to_text("a", &purged(1000));
        assert!(long.len() < 100);
        assert_eq!(News::hear(&long, "b"), Some(Event::Unknown));
        assert_eq!(News::hear("{", "b"), Some(Event::Unknown));
    }
}
