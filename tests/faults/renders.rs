//! Renders whose bytes are known beforehand, from a service that nobody disturbs.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{
    client::{Fields, native_url},
    harness::{KEY, Response, SENDIMAGE, Site, files},
};

/// What the config of a site says that [`furnish`] fills.
pub const CONFIG: &str = "[sources.drawings]\nkind = \"fs\"\nroot = \"{dir}/media\"\nsvg = true\n";

/// Every output format: a source image, and a filter spec for a width.
pub const FORMATS: [(&str, &str); 9] = [
    ("media/photo.jpg", "width-{}|format-jpeg"),
    ("media/photo.jpg", "width-{}|format-png"),
    ("media/photo.jpg", "width-{}|format-webp"),
    ("media/alpha.png", "width-{}|format-webp-lossless"),
    ("media/photo.jpg", "width-{}|format-avif"),
    ("media/alpha.png", "width-{}|format-avif-lossless"),
    ("media/photo.jpg", "width-{}|format-gif"),
    ("media/alpha.png", "width-{}|format-ico"),
    ("drawings/drawing.svg", "width-{}|preserve-svg"),
];

/// Puts the source images of [`FORMATS`] into the media folder.
pub fn furnish(site: &Site) {
    for name in ["photo.jpg", "alpha.png", "drawing.svg"] {
        add(site, name, name);
    }
}

/// Puts a source image of [`FORMATS`] into the media folder, under this name. Its date is always the same: it is part of
/// every rendition's name.
pub fn add(site: &Site, picture: &str, name: &str) {
    let vector = match picture {
        "photo.jpg" => "photo_land.jpg",
        "alpha.png" => "rgba.png",
        _ => "vector.svg",
    };
    site.add(vector, name);
    let file = std::fs::File::options().write(true).open(site.path("media").join(name)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
}

/// Starts the service by a program that becomes it, such as `prlimit`, with these arguments.
pub fn start_by(site: &mut Site, program: &[&str]) {
    site.start_as(site.serve_command(&[program, &[SENDIMAGE]].concat()));
}

/// A signed URL, as `sendimage sign` prints it, without starting a process. `reference` is `source/path`, or an id.
pub fn url(reference: &str, spec: &str) -> String {
    let (source, path) = reference.split_once('/').unwrap_or((reference, ""));
    let fields = Fields { subject: source.into(), spec: spec.into(), path: path.into(), ..Fields::default() };
    native_url(KEY.as_bytes(), &fields)
}

/// The URLs of every format in these widths.
pub fn urls(widths: impl IntoIterator<Item = usize>) -> Vec<String> {
    let all = |width: usize| FORMATS.map(|(image, spec)| url(image, &spec.replace("{}", &width.to_string())));
    widths.into_iter().flat_map(all).collect()
}

/// Asks the gate, which may not be there any more: `None` if it did not answer in full.
pub fn try_ask(site: &Site, url: &str) -> Option<Response> {
    let mut stream = UnixStream::connect(site.path("gate.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let head = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let answer = crate::harness::parse(&bytes);
    (answer.status != 0).then_some(answer)
}

/// The path below the store's root that an answer hands over.
pub fn handed_over(answer: &Response) -> String {
    let path = answer.header("x-accel-redirect").expect("a path is handed over");
    path.strip_prefix("/_renditions/").expect("the internal prefix").to_owned()
}

/// Every stored rendition by its path below the store's root, as a service that nobody disturbs makes them.
pub struct Reference {
    renditions: BTreeMap<String, Vec<u8>>,
}

impl Reference {
    pub fn of(urls: &[String]) -> Self {
        let site = Site::new(CONFIG);
        furnish(&site);
        let site = site.serve();
        let ask = |url: &String| {
            let answer = try_ask(&site, url).unwrap();
            assert_eq!(answer.status, 200, "{url}");
            let path = handed_over(&answer);
            let bytes = std::fs::read(site.path("renditions").join(&path)).unwrap();
            (path, bytes)
        };
        let halves = urls.split_at(urls.len() / 2);
        let renditions = std::thread::scope(|scope| {
            let other = scope.spawn(|| halves.1.iter().map(ask).collect::<Vec<_>>());
            let mut all: BTreeMap<_, _> = halves.0.iter().map(ask).collect();
            all.extend(other.join().unwrap());
            all
        });
        Self { renditions }
    }

    /// The bytes at a path.
    pub fn bytes(&self, path: &str) -> &[u8] {
        &self.renditions[path]
    }

    /// Sees that every file in a store has its name by right, and is whole: how many there are.
    pub fn check(&self, store: &Path) -> usize {
        self.check_all_but(store, &[])
    }

    /// As [`Self::check`], but for what the test itself has put there.
    pub fn check_all_but(&self, store: &Path, ours: &[&str]) -> usize {
        let mut stored = stored(store);
        stored.retain(|path| !ours.contains(&path.as_str()));
        for path in &stored {
            let bytes = std::fs::read(store.join(path)).unwrap();
            let expected = self.renditions.get(path).unwrap_or_else(|| panic!("{path} is in the store: whose is it?"));
            assert!(
                bytes == *expected,
                "{path}: {} bytes, not the {} that it should have",
                bytes.len(),
                expected.len()
            );
        }
        stored.len()
    }
}

/// The paths of all files with final names, below a store's root.
pub fn stored(store: &Path) -> Vec<String> {
    let is_final = |path: &str| !path.split('/').any(|name| name.starts_with('.'));
    names(store).into_iter().filter(|path| is_final(path)).collect()
}

/// The paths of all files with temporary names, below a store's root.
pub fn leftovers(store: &Path) -> Vec<String> {
    let is_temporary = |path: &str| path.rsplit('/').next().unwrap().starts_with(".tmp-");
    names(store).into_iter().filter(|path| is_temporary(path)).collect()
}

fn names(store: &Path) -> Vec<String> {
    let relative = |path: std::path::PathBuf| path.strip_prefix(store).unwrap().to_str().unwrap().to_owned();
    files(store).into_iter().map(relative).collect()
}
