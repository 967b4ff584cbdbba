//! What a user may reach: each folder on a path, by its modes.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A user of this machine, with all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name, or number.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Its groups' numbers.
    pub groups: Vec<u32>,
}

/// What keeps a user from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is in the way.
    pub says: String,
    /// A command that removes it.
    pub remedy: String,
}

const READ: u32 = 4;
const WRITE: u32 = 2;
const ENTER: u32 = 1;

impl User {
    /// A user by name, from `/etc/passwd` and `/etc/group`.
    pub fn named(name: &str) -> Option<Self> {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let fields: Vec<&str> = users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f[0] == name)?;
        let (id, group) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        let all = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let member_of = all.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_in = fields.get(3)?.split(',').any(|member| member == name);
            is_in.then(|| fields.get(2)?.parse().ok()).flatten()
        });
        Some(Self { name: name.to_owned(), id, groups: std::iter::once(group).chain(member_of).collect() })
    }

    /// The user of a process.
    pub fn of_process(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |key: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect()
        };
        // Real, effective, saved, file system.
        let (id, group) = (*numbers("Uid:")?.get(1)?, *numbers("Gid:")?.get(1)?);
        let groups = std::iter::once(group).chain(numbers("Groups:").unwrap_or_default()).collect();
        Some(Self { name: name_of(id).unwrap_or_else(|| id.to_string()), id, groups })
    }

    /// The first thing that keeps it from reading a file: what is not there keeps nobody.
    pub fn obstacle(&self, file: &Path) -> Option<Obstacle> {
        self.first_obstacle(file, READ, "read it", "r")
    }

    /// The same, for a folder that files are opened in.
    pub fn folder_obstacle(&self, folder: &Path) -> Option<Obstacle> {
        self.first_obstacle(folder, ENTER, "enter the folder", "x")
    }

    /// The same, for connecting to a unix socket.
    pub fn socket_obstacle(&self, socket: &Path) -> Option<Obstacle> {
        self.first_obstacle(socket, READ | WRITE, "connect to it", "rw")
    }

    fn first_obstacle(&self, path: &Path, wanted: u32, to: &str, letters: &str) -> Option<Obstacle> {
        let folders: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for folder in folders.iter().rev() {
            if !self.may(folder, ENTER)? {
                return Some(self.barred(folder, "enter the folder", "x"));
            }
        }
        (!self.may(path, wanted)?).then(|| self.barred(path, to, letters))
    }

    fn barred(&self, path: &Path, to: &str, letters: &str) -> Obstacle {
        let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.mode() & 0o7777);
        Obstacle {
            says: format!("user {} may not {to}: {} has mode {mode:04o}", self.name, path.display()),
            remedy: format!("chmod o+{letters} {}", path.display()),
        }
    }

    /// By owner, group or others, as the kernel does; `None` where that cannot be seen.
    fn may(&self, path: &Path, wanted: u32) -> Option<bool> {
        let metadata = std::fs::metadata(path).ok()?;
        let mode = metadata.mode();
        let bits = if self.id == 0 {
            return Some(true);
        } else if metadata.uid() == self.id {
            mode >> 6
        } else if self.groups.contains(&metadata.gid()) {
            mode >> 3
        } else {
            mode
        };
        Some(bits & wanted == wanted)
    }
}

fn name_of(id: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    users.lines().map(fields).find(|f| f.get(2).is_some_and(|found| *found == id.to_string()))?.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    #[test]
    fn each_folder_on_the_way_has_a_say() {
        let folder = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(folder.path(), 0o755);
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let file = inner.join("a.png");
        std::fs::write(&file, "x").unwrap();
        // Nobody's number, and no group of anybody's.
        let user = User { name: "nobody".into(), id: 4_000_000, groups: vec![4_000_000] };
        set(&inner, 0o755);
        set(&file, 0o644);
        assert_eq!(user.obstacle(&file), None);
        set(&file, 0o640);
        assert!(user.obstacle(&file).unwrap().says.contains("a.png has mode 0640"));
        set(&inner, 0o750);
        let obstacle = user.obstacle(&file).unwrap();
        assert!(obstacle.says.contains("enter the folder") && obstacle.says.contains("inner has mode 0750"));
        assert_eq!(obstacle.remedy, format!("chmod o+x {}", inner.display()));
        assert_eq!(User { id: 0, ..user.clone() }.obstacle(&file), None);
        let owner = std::fs::metadata(&inner).unwrap();
        assert_eq!(User { groups: vec![owner.gid()], ..user.clone() }.obstacle(&file), None);
        assert_eq!(user.obstacle(&folder.path().join("not-there/a.png")), None);
    }

    #[test]
    fn this_process_has_a_user() {
        let user = User::of_process(std::process::id()).unwrap();
        assert_eq!(user.id, rustix::process::geteuid().as_raw());
        assert_eq!(User::named("root").map(|user| user.id), Some(0));
        assert_eq!(User::named("no such user"), None);
    }
}
