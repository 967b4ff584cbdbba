//! What other gates tell: what they have made, and what they have taken away.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
};

use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{app::App, coordination::Event};

/// Has an app heed what other gates tell, where they can, for as long as it is there.
pub fn attend(app: &Arc<App>) {
    if let Some(news) = app.renditions.coordination().news() {
        tokio::spawn(heed(Arc::downgrade(app), news));
    }
}

async fn heed(app: Weak<App>, mut news: Receiver<Event>) {
    loop {
        let event = match news.recv().await {
            Ok(event) => event,
            // More was told than could be heard.
            Err(RecvError::Lagged(_)) => Event::Unknown,
            Err(RecvError::Closed) => return,
        };
        let Some(app) = app.upgrade() else { return };
        match event {
            Event::Made { path, bytes } => app.renditions.note_made(path, bytes),
            Event::Purged { locations, ids } => {
                ids.iter().for_each(|id| app.catalogue.forget(Some(*id)));
                let locations: HashSet<_> = locations.into_iter().collect();
                app.renditions.forget_purged(&locations);
                app.solved.forget(&locations);
            }
            Event::Unknown => {
                app.catalogue.forget(None);
                app.renditions.forget_all();
                app.solved.forget_all();
            }
        }
    }
}
