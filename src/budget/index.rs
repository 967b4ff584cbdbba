//! The index: an SQLite file with a row for each rendition, of sizes and last uses.
//!
//! It is a cache of the disk. Whatever is wrong with it, it is thrown away and begun anew, and a walk of the store fills it. A
//! row is some 60 bytes and has 20 more in the order of uses; sums are kept as rows come and go, so that nothing is ever counted.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use thiserror::Error;
use tokio::time::sleep;

use super::{
    name::{Folder, Name},
    uses::{Moment, Note},
};
use crate::model::key::LAYOUT;

/// `PRAGMA application_id`: "sidx".
const APPLICATION: i64 = 0x7369_6478;
/// `PRAGMA user_version`: another number, another layout of the tables.
const TABLES: i64 = 1;
/// How long a gate waits for another one that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Rows of one statement.
const ROWS: usize = 64;

/// `rendition.used` and all times are seconds since 2020. `preset` is the preset that a rendition was last asked for by, 0 where
/// that was none: it is what a pinned set protects, and the first half of the order in which renditions go.
const SCHEMA: &str = "
    CREATE TABLE rendition (
        id INTEGER PRIMARY KEY, name BLOB NOT NULL, bytes INTEGER NOT NULL, used INTEGER NOT NULL, preset INTEGER NOT NULL
    );
    CREATE INDEX by_use ON rendition (preset, used);
    CREATE TABLE preset (id INTEGER PRIMARY KEY, spec TEXT NOT NULL UNIQUE, pinned INTEGER NOT NULL);
    INSERT INTO preset VALUES (0, '', 0);
    CREATE TABLE total (files INTEGER NOT NULL, bytes INTEGER NOT NULL);
    INSERT INTO total VALUES (0, 0);
    CREATE TABLE state (root TEXT NOT NULL, layout TEXT NOT NULL, walked_at INTEGER NOT NULL, walker_until INTEGER NOT NULL);
    CREATE TRIGGER came AFTER INSERT ON rendition BEGIN
        UPDATE total SET files = files + 1, bytes = bytes + NEW.bytes;
    END;
    CREATE TRIGGER changed AFTER UPDATE OF bytes ON rendition WHEN NEW.bytes <> OLD.bytes BEGIN
        UPDATE total SET bytes = bytes + NEW.bytes - OLD.bytes;
    END;
    CREATE TRIGGER went AFTER DELETE ON rendition BEGIN
        UPDATE total SET files = files - 1, bytes = bytes - OLD.bytes;
    END;
";

/// What is stored, as far as the index knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Renditions.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A row, for the walk and for eviction.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub name: Name,
    pub bytes: u64,
    pub used: Moment,
}

/// Why the index was not asked, or had no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// It is damaged, or another program's: it can only be thrown away.
    #[error("damaged: {0}")]
    Damaged(String),
    /// It cannot be had at this moment, or in this place.
    #[error("{0}")]
    Away(String),
}

impl From<sqlx::Error> for IndexError {
    fn from(error: sqlx::Error) -> Self {
        /// `SQLITE_ERROR`, for a table that is not there; `SQLITE_CORRUPT`, `SQLITE_CONSTRAINT`, `SQLITE_MISMATCH`, `SQLITE_NOTADB`.
        const DAMAGED: [i32; 5] = [1, 11, 19, 20, 26];
        let is_damaged = match &error {
            sqlx::Error::Database(_) => primary_code(&error).is_some_and(|code| DAMAGED.contains(&code)),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => true,
            _ => false,
        };
        if is_damaged { Self::Damaged(error.to_string()) } else { Self::Away(error.to_string()) }
    }
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        Self::Away(error.to_string())
    }
}

/// Where an index is, and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub file: PathBuf,
    /// The store's root.
    pub root: PathBuf,
    /// The filter specs of presets, and whether they are pinned. Rows name them by their place here.
    pub presets: Vec<(String, bool)>,
}

/// An open index. After any error it is closed: a transaction may be under way.
pub(super) struct Index {
    connection: SqliteConnection,
    file: PathBuf,
    identity: (u64, u64),
    /// The numbers of the presets in the file.
    presets: Vec<i64>,
}

impl Index {
    /// Opens the index; what is missing, damaged, of another layout or of another store is begun anew. `true` with one that was.
    ///
    /// # Errors
    /// [`IndexError::Away`] when the place has no room, or is no place for a database.
    pub async fn open(place: &Place) -> Result<(Self, bool), IndexError> {
        check_file_system(&place.file)?;
        match Self::try_open(place).await {
            Err(IndexError::Damaged(error)) => {
                tracing::warn!(file = %place.file.display(), error, "the store's index is thrown away and made anew");
                discard(&place.file)?;
                let (index, _) = Self::try_open(place).await?;
                Ok((index, true))
            }
            result => result,
        }
    }

    async fn try_open(place: &Place) -> Result<(Self, bool), IndexError> {
        // SQLite gives its other two files the modes of this one. Nobody but the gates reads it.
        fs::File::options().append(true).create(true).mode(0o600).open(&place.file)?;
        let options = SqliteConnectOptions::new()
            .filename(&place.file)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            // A crash of the machine may cost the last seconds, and leaves the file whole.
            .synchronous(SqliteSynchronous::Normal)
            .pragma("wal_autocheckpoint", "256")
            .pragma("journal_size_limit", "1048576")
            .pragma("cache_size", "-4096")
            .disable_statement_logging();
        let mut connection = connect(&options).await?;
        let identity = identity(&place.file).ok_or_else(|| IndexError::Away("it is gone again".into()))?;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection).await?;
        let tables: i64 = number(&mut connection, "PRAGMA user_version").await?;
        let root = place.root.to_string_lossy();
        let is_new = tables == 0 && number(&mut connection, "SELECT count(*) FROM sqlite_schema").await? == 0;
        if is_new {
            // The pragmas' numbers are ours.
            let pragmas = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {TABLES};");
            sqlx::raw_sql(AssertSqlSafe(SCHEMA.to_owned() + &pragmas)).execute(&mut connection).await?;
            let state = sqlx::query("INSERT INTO state VALUES (?, ?, 0, 0)").bind(&*root).bind(LAYOUT);
            state.execute(&mut connection).await?;
        } else if tables != TABLES || number(&mut connection, "PRAGMA application_id").await? != APPLICATION {
            return Err(IndexError::Damaged("it has other tables than this version's".into()));
        }
        let of: (String, String) = sqlx::query_as("SELECT root, layout FROM state").fetch_one(&mut connection).await?;
        if of.0 != root || of.1 != LAYOUT {
            return Err(IndexError::Damaged(format!("it is the index of {}", of.0)));
        }
        let presets = presets(&mut connection, &place.presets).await?;
        sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
        Ok((Self { connection, file: place.file.clone(), identity, presets }, is_new))
    }

    /// Whether the file is still the one that is open: somebody may have removed it, or begun it anew.
    pub fn is_there(&self) -> bool {
        identity(&self.file) == Some(self.identity)
    }

    /// Closes it, which leaves one file where there were three.
    pub async fn close(self) {
        let _ = self.connection.close().await;
    }

    /// Writes notes down, in one transaction and in their order.
    pub async fn write(&mut self, notes: &[Note]) -> Result<(), IndexError> {
        self.begin().await?;
        let is_use = |note: &Note| matches!(note, Note::Used { .. });
        for notes in notes.chunk_by(|one, other| is_use(one) && is_use(other)) {
            match notes {
                [Note::Emptied(folder)] => self.forget_folder(folder).await?,
                [Note::Removed(name)] => self.forget_row(name).await?,
                uses => {
                    for uses in uses.chunks(ROWS) {
                        self.write_uses(uses).await?;
                    }
                }
            }
        }
        self.commit().await
    }

    async fn write_uses(&mut self, uses: &[Note]) -> Result<(), IndexError> {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO rendition (id, name, bytes, used, preset) ");
        query.push_values(uses, |mut row, note| {
            let Note::Used { name, bytes, at, preset } = note else { return };
            let place = usize::from(*preset).checked_sub(1);
            let preset = place.and_then(|place| self.presets.get(place)).copied().unwrap_or(0);
            row.push_bind(name.row()).push_bind(name.as_bytes().to_vec()).push_bind(signed(*bytes));
            row.push_bind(i64::from(*at)).push_bind(preset);
        });
        // One file may be asked for by a pinned preset and by another: it stays pinned.
        query.push(
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, bytes = excluded.bytes, used = max(used, excluded.used), \
             preset = CASE WHEN excluded.preset = 0 OR (SELECT pinned FROM preset p WHERE p.id = rendition.preset) \
             THEN rendition.preset ELSE excluded.preset END",
        );
        query.build().execute(&mut self.connection).await?;
        Ok(())
    }

    /// Adds what a walk has found and the index does not know: how many rows.
    pub async fn add(&mut self, found: &[Entry]) -> Result<u64, IndexError> {
        let mut added = 0;
        self.begin().await?;
        for found in found.chunks(ROWS) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO rendition (id, name, bytes, used, preset) ");
            query.push_values(found, |mut row, entry| {
                row.push_bind(entry.name.row()).push_bind(entry.name.as_bytes().to_vec());
                row.push_bind(signed(entry.bytes)).push_bind(i64::from(entry.used)).push_bind(0);
            });
            query.push(" ON CONFLICT (id) DO NOTHING");
            added += query.build().execute(&mut self.connection).await?.rows_affected();
        }
        self.commit().await?;
        Ok(added)
    }

    /// Forgets rows, and corrects when others were used.
    pub async fn settle(&mut self, gone: &[Name], used: &[(Name, Moment)]) -> Result<(), IndexError> {
        self.begin().await?;
        for name in gone {
            self.forget_row(name).await?;
        }
        for (name, used) in used {
            let update = sqlx::query("UPDATE rendition SET used = max(used, ?) WHERE id = ?");
            update.bind(i64::from(*used)).bind(name.row()).execute(&mut self.connection).await?;
        }
        self.commit().await
    }

    async fn forget_row(&mut self, name: &Name) -> Result<(), IndexError> {
        let delete = sqlx::query("DELETE FROM rendition WHERE id = ? AND name = ?");
        delete.bind(name.row()).bind(name.as_bytes().to_vec()).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn forget_folder(&mut self, folder: &Folder) -> Result<(), IndexError> {
        let (first, last) = folder.rows();
        let delete = sqlx::query("DELETE FROM rendition WHERE id BETWEEN ? AND ? AND substr(name, 1, 16) = ?");
        delete.bind(first).bind(last).bind(folder.as_bytes().to_vec()).execute(&mut self.connection).await?;
        Ok(())
    }

    /// What is stored.
    pub async fn totals(&mut self) -> Result<Totals, IndexError> {
        let query = sqlx::query_as("SELECT files, bytes FROM total");
        let (files, bytes): (i64, i64) = query.fetch_one(&mut self.connection).await?;
        match (files.try_into(), bytes.try_into()) {
            (Ok(files), Ok(bytes)) => Ok(Totals { files, bytes }),
            _ => Err(IndexError::Damaged(format!("it counts {files} files of {bytes} bytes"))),
        }
    }

    /// The renditions that nobody has asked for since `before`, but for pinned ones, the longest unused first.
    pub async fn idle(&mut self, before: Moment, most: usize) -> Result<Vec<Entry>, IndexError> {
        let query = sqlx::query_scalar("SELECT id FROM preset WHERE NOT pinned");
        let presets: Vec<i64> = query.fetch_all(&mut self.connection).await?;
        let mut entries = Vec::new();
        for preset in presets {
            let query = sqlx::query(
                "SELECT name, bytes, used FROM rendition WHERE preset = ? AND used < ? ORDER BY used LIMIT ?",
            );
            let query = query.bind(preset).bind(i64::from(before)).bind(signed(most as u64));
            for row in query.fetch_all(&mut self.connection).await? {
                entries.push(entry(&row)?);
            }
        }
        entries.sort_by_key(|entry| entry.used);
        entries.truncate(most);
        Ok(entries)
    }

    /// Rows by their number, from one on; and the number to go on from, unless these are the last.
    pub async fn page(&mut self, from: i64, most: usize) -> Result<(Vec<Entry>, Option<i64>), IndexError> {
        let query = sqlx::query("SELECT name, bytes, used, id FROM rendition WHERE id >= ? ORDER BY id LIMIT ?");
        let rows = query.bind(from).bind(signed(most as u64)).fetch_all(&mut self.connection).await?;
        let next = match rows.last() {
            Some(last) if rows.len() == most => Some(last.try_get::<i64, _>(3)? + 1),
            _ => None,
        };
        let entries: Result<_, _> = rows.iter().map(entry).collect();
        Ok((entries?, next))
    }

    /// When the whole store was last walked; 0: never.
    pub async fn walked_at(&mut self) -> Result<Moment, IndexError> {
        let walked_at = number(&mut self.connection, "SELECT walked_at FROM state").await?;
        Ok(walked_at.try_into().unwrap_or(0))
    }

    /// Takes or keeps the turn to walk the store until then: one gate at a time does. `false`: another one has it.
    pub async fn take_turn(&mut self, mine: Moment, now: Moment, until: Moment) -> Result<bool, IndexError> {
        let query = sqlx::query("UPDATE state SET walker_until = ? WHERE walker_until < ? OR walker_until = ?");
        let query = query.bind(i64::from(until)).bind(i64::from(now)).bind(i64::from(mine));
        Ok(query.execute(&mut self.connection).await?.rows_affected() > 0)
    }

    /// Gives the turn back; `walked_at`, if the walk came to its end.
    pub async fn end_turn(&mut self, walked_at: Option<Moment>) -> Result<(), IndexError> {
        let query = sqlx::query("UPDATE state SET walker_until = 0, walked_at = coalesce(?, walked_at)");
        query.bind(walked_at.map(i64::from)).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), IndexError> {
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), IndexError> {
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
        Ok(())
    }
}

/// What an index says is stored, which is neither made nor thrown away for that.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn read_totals(place: &Place) -> Result<Totals, IndexError> {
    let options = SqliteConnectOptions::new().filename(&place.file).read_only(true).busy_timeout(BUSY);
    let connection = connect(&options.disable_statement_logging()).await?;
    let mut index = Index { connection, file: place.file.clone(), identity: (0, 0), presets: Vec::new() };
    let totals = index.totals().await;
    index.close().await;
    totals
}

/// Connects, and waits for others that do. Of two connections that give a new file its write-ahead log at one moment, SQLite
/// refuses one at once, whatever its busy timeout: waiting with a shared lock for an exclusive one, both would wait for ever.
async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    const BETWEEN: Duration = Duration::from_millis(10);
    let begun_at = Instant::now();
    loop {
        match options.connect().await {
            Err(error) if is_busy(&error) && begun_at.elapsed() < BUSY => sleep(BETWEEN).await,
            result => return result,
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    /// `SQLITE_BUSY`.
    const BUSY: i32 = 5;
    primary_code(error) == Some(BUSY)
}

/// SQLite's result code (sqlite.org/rescode.html) without its extension.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xFF)
}

fn entry(row: &SqliteRow) -> Result<Entry, IndexError> {
    let (name, bytes, used): (&[u8], i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let name = Name::from_bytes(name).ok_or_else(|| IndexError::Damaged("a row has a name that is none".into()))?;
    Ok(Entry { name, bytes: bytes.try_into().unwrap_or(0), used: used.try_into().unwrap_or(0) })
}

async fn number(connection: &mut SqliteConnection, query: &'static str) -> Result<i64, IndexError> {
    Ok(sqlx::query_scalar(query).fetch_one(connection).await?)
}

/// Gives each preset a number, and says which are pinned.
async fn presets(connection: &mut SqliteConnection, presets: &[(String, bool)]) -> Result<Vec<i64>, IndexError> {
    sqlx::query("UPDATE preset SET pinned = 0 WHERE pinned").execute(&mut *connection).await?;
    let mut numbers = Vec::new();
    for (spec, is_pinned) in presets {
        let query = "INSERT INTO preset (spec, pinned) VALUES (?, ?) \
                     ON CONFLICT (spec) DO UPDATE SET pinned = excluded.pinned RETURNING id";
        let query = sqlx::query_scalar(query).bind(spec).bind(is_pinned);
        numbers.push(query.fetch_one(&mut *connection).await?);
    }
    Ok(numbers)
}

/// SQLite's integers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn identity(file: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes an index. Whoever has it open finds out that it is not there any more.
pub(super) fn discard(file: &Path) -> io::Result<()> {
    for end in ["-wal", "-shm", ""] {
        let mut path = file.as_os_str().to_owned();
        path.push(end);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A write-ahead log is shared through memory, which hosts do not share (sqlite.org/wal.html).
fn check_file_system(file: &Path) -> Result<(), IndexError> {
    /// NFS, SMB, SMB2, CIFS, CEPH, 9P, FUSE (which may be any of them), AFS (`linux/magic.h`).
    const NETWORK: [u64; 8] =
        [0x6969, 0x517B, 0xFE53_4D42, 0xFF53_4D42, 0x00C3_6400, 0x0102_1997, 0x6573_5546, 0x5346_414F];
    let folder = file.parent().unwrap_or(Path::new("."));
    let kind = rustix::fs::statfs(folder).map_err(io::Error::from)?.f_type as u64 & 0xFFFF_FFFF;
    match NETWORK.contains(&kind) {
        true => {
            Err(IndexError::Away("it is on a network file system: set store.index to a file on a local disk".into()))
        }
        false => Ok(()),
    }
}
