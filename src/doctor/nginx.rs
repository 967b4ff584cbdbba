//! The nginx of this machine: who its workers are, and what its config says. Evidence only; nothing depends on it.

use std::{
    collections::HashSet,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::users::{Obstacle, User};
use crate::config::ListenAddress;

/// Most bytes of config that are read, of all files together.
const MAX_BYTES: usize = 4 << 20;
/// How deep files are included in each other.
const MAX_DEPTH: u32 = 8;

/// What could be seen.
#[derive(Debug, Default)]
pub struct Front {
    user: Option<User>,
    locations: Vec<Location>,
}

/// A location of its config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Location {
    /// `^~`, `~` and the like; empty for a plain prefix.
    modifier: String,
    path: String,
    /// `alias` or `root`, and its folder.
    folder: Option<(&'static str, String)>,
    /// File and line.
    place: String,
    /// Which server block it is in, by number.
    server: usize,
}

impl Front {
    /// Looks for the nginx that listens on a port.
    pub fn on_this_machine(port: Option<u16>, named: Option<&str>) -> Self {
        let named = named.and_then(User::named);
        let Some(worker) = port.and_then(listener) else { return Self { user: named, locations: Vec::new() } };
        let user = named.or_else(|| User::of_process(worker.pid));
        let mut reader = Reader::default();
        if let Some((file, prefix)) = config_of(worker.master) {
            reader.prefix = prefix;
            reader.read(&file, 0);
        }
        Self { user, locations: reader.locations }
    }

    /// What keeps its user from a file.
    pub fn obstacle(&self, file: &Path) -> Option<Obstacle> {
        self.user.as_ref()?.obstacle(file)
    }

    /// What keeps its user from the files of a folder.
    pub fn folder_obstacle(&self, folder: &Path) -> Option<Obstacle> {
        self.user.as_ref()?.folder_obstacle(folder)
    }

    /// What keeps its user from the gate's socket.
    pub fn socket_obstacle(&self, address: &ListenAddress) -> Option<String> {
        match address {
            ListenAddress::Unix(socket) => Some(self.user.as_ref()?.socket_obstacle(socket)?.says),
            ListenAddress::Tcp(_) => None,
        }
    }

    /// Where the location of a prefix looks for files, whether or not it lacks its slash.
    pub fn alias_of(&self, prefix: &str) -> Option<String> {
        let is_it = |l: &&Location| l.path.trim_end_matches('/') == prefix.trim_end_matches('/') && l.folder.is_some();
        let found = self.locations.iter().find(is_it)?;
        let (directive, folder) = found.folder.as_ref()?;
        Some(format!("{}: {directive} {folder};", found.place))
    }

    /// Whether the location of a prefix is known to look into another folder.
    pub fn looks_elsewhere(&self, prefix: &str, root: &str) -> bool {
        let here =
            |l: &Location| l.path == prefix && l.folder.as_ref().is_some_and(|(_, f)| f.trim_end_matches('/') != root);
        self.locations.iter().any(here)
    }

    /// Whether one server block has both locations, as it must.
    pub fn has_beside(&self, prefix: &str, public: &str) -> bool {
        let servers = |path: &str| {
            let is_it = move |l: &&Location| l.path == path;
            self.locations.iter().filter(is_it).map(|l| l.server).collect::<HashSet<_>>()
        };
        !servers(prefix).is_disjoint(&servers(public))
    }

    /// A location that leads to the store by another prefix.
    pub fn location_of(&self, root: &Path, prefix: &str) -> Option<String> {
        let leads_there = |l: &&Location| {
            let is_alias = |(directive, folder): &(&str, String)| *directive == "alias" && Path::new(folder) == root;
            l.path != prefix && l.folder.as_ref().is_some_and(is_alias)
        };
        let found = self.locations.iter().find(leads_there)?;
        Some(format!("{}: location {} {}", found.place, found.modifier, found.path))
    }

    /// Locations that are tried before a plain prefix.
    pub fn regex_locations(&self) -> impl Iterator<Item = String> {
        let is_regex = |l: &&Location| l.modifier.starts_with('~');
        self.locations.iter().filter(is_regex).map(|l| format!("{}: location {} {}", l.place, l.modifier, l.path))
    }
}

/// A process that listens, and the one that started it.
struct Worker {
    pid: u32,
    master: u32,
}

/// The nginx worker that listens on a port, on any address.
fn listener(port: u16) -> Option<Worker> {
    let sockets: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(|line| listening(line, port)).collect::<Vec<_>>())
        .collect();
    let is_worker = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"nginx: worker process") && holds(*pid, &sockets)
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pid = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_worker)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let master = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    Some(Worker { pid, master })
}

/// The inode of a socket that listens on a port, by a line of `/proc/net/tcp`.
fn listening(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == "0A";
    is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
}

fn holds(pid: u32, sockets: &HashSet<String>) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
}

/// The config that a master was started with, and the folder that its relative names begin in.
fn config_of(master: u32) -> Option<(PathBuf, PathBuf)> {
    // "nginx: master process /usr/sbin/nginx -g daemon on; -c FILE": one text, with spaces between its words.
    let line = std::fs::read(format!("/proc/{master}/cmdline")).ok()?;
    let line = String::from_utf8(line).ok()?;
    let words: Vec<&str> = line.split(['\0', ' ']).filter(|word| !word.is_empty()).collect();
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied();
    let prefix = PathBuf::from(after("-p").unwrap_or("/etc/nginx"));
    let file = after("-c").map_or_else(|| PathBuf::from("/etc/nginx/nginx.conf"), |file| prefix.join(file));
    Some((file, prefix))
}

/// Reads configs for their locations.
#[derive(Default)]
struct Reader {
    prefix: PathBuf,
    locations: Vec<Location>,
    bytes: usize,
    servers: usize,
}

impl Reader {
    fn read(&mut self, file: &Path, depth: u32) {
        let Ok(text) = std::fs::read_to_string(file) else { return };
        self.bytes += text.len();
        if self.bytes > MAX_BYTES || depth > MAX_DEPTH {
            return;
        }
        self.text(&text, &file.display().to_string(), depth);
    }

    /// Directives as they come. Which block is open is known by number: locations may be in each other.
    fn text(&mut self, text: &str, name: &str, depth: u32) {
        let mut open: Vec<Option<usize>> = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let mut at = 1;
        for token in tokens(text) {
            match token {
                Token::Word(word, line) => {
                    if words.is_empty() {
                        at = line;
                    }
                    words.push(word);
                }
                Token::Open => {
                    open.push(self.begin(&words, format!("{name}:{at}")));
                    words.clear();
                }
                Token::Close => {
                    open.pop();
                    words.clear();
                }
                Token::End => {
                    let here = open.iter().rev().find_map(|block| *block);
                    self.directive(&words, here, &format!("{name}:{at}"), depth);
                    words.clear();
                }
            }
        }
    }

    fn begin(&mut self, words: &[String], place: String) -> Option<usize> {
        let (modifier, path) = match words {
            [first] if first == "server" => {
                self.servers += 1;
                return None;
            }
            [first, path] if first == "location" => ("", path),
            [first, modifier, path] if first == "location" => (modifier.as_str(), path),
            _ => return None,
        };
        let (modifier, path) = (modifier.to_owned(), path.clone());
        self.locations.push(Location { modifier, path, folder: None, place, server: self.servers });
        Some(self.locations.len() - 1)
    }

    fn directive(&mut self, words: &[String], location: Option<usize>, place: &str, depth: u32) {
        match words {
            [name, pattern] if name == "include" => {
                for file in included(&self.prefix.join(pattern)) {
                    self.read(&file, depth + 1);
                }
            }
            [name, folder] if name == "alias" || name == "root" => {
                if let Some(location) = location.and_then(|at| self.locations.get_mut(at)) {
                    location.folder = Some((if name == "alias" { "alias" } else { "root" }, folder.clone()));
                    place.clone_into(&mut location.place);
                }
            }
            _ => {}
        }
    }
}

/// The files of an `include`: stars in its last part, as every packaged config has them.
fn included(pattern: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let name = name.as_bytes();
    let Some(star) = name.iter().position(|b| *b == b'*') else { return vec![pattern.to_owned()] };
    let (before, after) = (&name[..star], &name[star + 1..]);
    let fits = |file: &PathBuf| {
        let name = file.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(fits).collect();
    files.sort();
    files
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String, usize),
    Open,
    Close,
    End,
}

/// nginx's words: quoted or plain, with comments left out.
fn tokens(text: &str) -> Vec<Token> {
    let (mut tokens, mut word, mut line, mut began) = (Vec::new(), None::<String>, 1, 1);
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c == '\n' {
            line += 1;
        }
        if let Some(open) = quote {
            match c {
                '\\' => word.get_or_insert_default().extend(characters.next()),
                c if c == open => quote = None,
                c => word.get_or_insert_default().push(c),
            }
            continue;
        }
        let is_variable = c == '{' && word.as_deref().is_some_and(|word| word.ends_with('$'));
        match c {
            '#' if word.is_none() => while characters.next_if(|c| *c != '\n').is_some() {},
            '"' | '\'' if word.is_none() => {
                (quote, began) = (Some(c), line);
                word = Some(String::new());
            }
            ';' | '{' | '}' | ' ' | '\t' | '\r' | '\n' if !is_variable => {
                tokens.extend(word.take().map(|word| Token::Word(word, began)));
                match c {
                    ';' => tokens.push(Token::End),
                    '{' => tokens.push(Token::Open),
                    '}' => tokens.push(Token::Close),
                    _ => {}
                }
            }
            '\\' => word.get_or_insert_default().extend(['\\'].into_iter().chain(characters.next())),
            c => {
                if word.is_none() {
                    began = line;
                }
                word.get_or_insert_default().push(c);
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front(text: &str) -> Front {
        let mut reader = Reader::default();
        reader.text(text, "nginx.conf", 0);
        Front { user: None, locations: reader.locations }
    }

    #[test]
    fn locations_and_their_folders() {
        let front = front(
            "http { # a { comment }\n server {\n location ^~ /_r/ {\n internal;\n alias \"/srv/a b/\";\n types { a b; }\n }\n\
             location ~* \\.(png|webp)$ { root /var/www; }\n location / { return 404; } } }",
        );
        assert_eq!(front.alias_of("/_r/").as_deref(), Some("nginx.conf:5: alias /srv/a b/;"));
        assert_eq!(front.alias_of("/_r").as_deref(), Some("nginx.conf:5: alias /srv/a b/;"));
        assert_eq!(front.alias_of("/x/"), None);
        assert_eq!(front.regex_locations().collect::<Vec<_>>(), ["nginx.conf:8: location ~* \\.(png|webp)$"]);
        assert!(front.location_of(Path::new("/srv/a b"), "/_renditions/").unwrap().contains("/_r/"));
        assert_eq!(front.location_of(Path::new("/srv/a b"), "/_r/"), None);
    }

    #[test]
    fn locations_of_two_servers_are_not_beside_each_other() {
        let front = front("server { location /a/ { } location /b/ { } } server { location /c/ { } }");
        assert!(front.has_beside("/a/", "/b/") && !front.has_beside("/a/", "/c/") && !front.has_beside("/a/", "/d/"));
    }

    #[test]
    fn what_proxy_conf_prints_is_read() {
        let front = front(include_str!("../../nginx.conf.example"));
        assert!(front.alias_of("/_renditions/").unwrap().ends_with(": alias /srv/renditions/;"));
        assert!(front.locations.iter().any(|location| location.path == "@again"));
        assert_eq!(front.regex_locations().count(), 0);
    }

    #[test]
    fn includes_are_followed_and_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        std::fs::write(folder.path().join("conf.d/a.conf"), "location /_r/ { alias /a; include ../nginx.conf; }")
            .unwrap();
        std::fs::write(folder.path().join("conf.d/b.off"), "location /b/ { }").unwrap();
        let main = folder.path().join("nginx.conf");
        std::fs::write(&main, "include conf.d/*.conf;").unwrap();
        let mut reader = Reader { prefix: folder.path().to_owned(), ..Reader::default() };
        reader.read(&main, 0);
        assert!(reader.locations.iter().all(|location| location.path == "/_r/") && !reader.locations.is_empty());
    }

    #[test]
    fn ports_are_read_as_the_kernel_writes_them() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1";
        assert_eq!(listening(line, 8080).as_deref(), Some("socket:[12345]"));
        assert_eq!(listening(line, 8081), None);
    }
}
