//! The last good version of each zone on disk, so that a restart serves at once and without the
//! primaries. One file a zone, written whole under another name and then renamed.
//!
//! ```text
//! magic         8 octets, with the version of the format
//! refreshed     8 octets, Unix seconds: when the primary last confirmed the zone
//! expires       8 octets, Unix seconds
//! check         8 octets: the beginning of SHA-256 over the 24 octets before
//! digest        32 octets: SHA-256 over all that follows
//! messages      those of an AXFR (RFC 5936), each behind its length of 2 octets
//! owner         8 octets: whose zone it was; absent where nobody said
//! ```
//!
//! Times change at each refresh and the zone does not, so they are overwritten in place; they are
//! within one sector, which a disk writes whole or not at all. What is read has been through
//! admission when it was written, and the digest says that it is still the same; whoever can write
//! here can serve anything anyway, so it is no signature.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::{Buf, Bytes};
use domain::base::iana::Rtype;

use crate::record::{Name, Record};
use crate::transfer::inbound::{Fault, Inbound, Limits, Received, Step};
use crate::transfer::outbound::{Head, TooLarge, messages};
use crate::transfer::query::Kind;
use crate::transfer::timers::Standing;

const MAGIC: &[u8; 8] = b"SPZONE\x00\x01";
/// Magic, times and their check.
const TIMES: usize = 32;
const HEADER: usize = TIMES + 32;
/// How files of zones end.
const ENDING: &str = ".zone";
/// How files that cannot be read are set aside.
const DAMAGED: &str = ".damaged";
/// How files begin that are not complete yet. No name of a zone begins so.
const PART: &str = ".part-";
/// The longest escaped name that is a file's name as it is; file systems end at 255 octets.
const LONGEST: usize = 200;

/// What is read was admitted when it was written, under limits that may have been the zone's own.
const UNBOUNDED: Limits = Limits { records: usize::MAX, octets: usize::MAX, messages: usize::MAX };

/// A directory of zones.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// A zone as it was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its name.
    pub apex: Name,
    /// Until when it may be served.
    pub standing: Standing,
    /// Whose it was, as it was said when it was kept.
    pub owner: Option<u64>,
    /// Its records, the SOA record first.
    pub records: Vec<Record>,
}

/// Why a zone cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, #[source] io::Error),
    /// A record that no message can carry.
    #[error("cannot be kept: {0}")]
    TooLarge(#[from] TooLarge),
    /// No SOA record at the front.
    #[error("cannot be kept: its first record is no SOA record")]
    NoSoa,
    /// What is in the file.
    #[error("{path}: {damage}", path = .0.display(), damage = .1)]
    Damaged(PathBuf, #[source] Damage),
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Shorter than its header.
    #[error("cut short")]
    Short,
    /// Not one of ours, or of a later version.
    #[error("not a zone file of this version")]
    Magic,
    /// The times are not those that were written.
    #[error("its times are damaged")]
    Times,
    /// The messages are not those that were written.
    #[error("its records are damaged")]
    Digest,
    /// The messages are no transfer of the zone.
    #[error("its records cannot be read: {0}")]
    Fault(#[from] Fault),
    /// A question that says no zone.
    #[error("its zone cannot be read")]
    Question,
    /// It is the file of another zone.
    #[error("it holds the zone {0}, which has another file name")]
    Name(Name),
}

impl Store {
    /// The zones in `directory`, which is made (mode 0700) when it is not there.
    pub fn open(directory: PathBuf) -> Result<Self, StoreError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| StoreError::Io(directory.clone(), error))?;
        Ok(Self { directory })
    }

    /// Keeps a version in the place of the one before. When this returns it is on the disk. Blocks.
    pub fn save(
        &self,
        apex: &Name,
        records: &[Record],
        at: Standing,
        owner: Option<u64>,
    ) -> Result<(), StoreError> {
        let content = encode(apex, records, at, owner)?;
        let path = self.path(apex);
        let part = self.directory.join(format!("{PART}{:016x}", rand::random::<u64>()));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(&content)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            self.sync()
        })();
        written.map_err(|error| {
            let _ = fs::remove_file(&part);
            StoreError::Io(path, error)
        })
    }

    /// Writes down that the version at hand was confirmed. It may be lost in a crash: then the zone
    /// expires by the time before. Blocks.
    pub fn confirm(&self, apex: &Name, standing: Standing) -> Result<(), StoreError> {
        let path = self.path(apex);
        let written = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|file| file.write_all_at(&times(standing), 0));
        written.map_err(|error| StoreError::Io(path, error))
    }

    /// Forgets a zone. Blocks.
    pub fn remove(&self, apex: &Name) -> Result<(), StoreError> {
        let path = self.path(apex);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        };
        removed.map_err(|error| StoreError::Io(path, error))
    }

    /// Reads one zone; `None` when it is not kept. Blocks.
    pub fn load(&self, apex: &Name) -> Result<Option<Kept>, StoreError> {
        let path = self.path(apex);
        match self.read(&path) {
            Err(StoreError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads all zones with `threads` threads, and hands each on as it comes, in no order. A file
    /// that is damaged is set aside under another name and handed on as an error; what a crash left
    /// half written is removed. Blocks.
    pub fn load_all<F>(&self, threads: usize, each: F) -> Result<(), StoreError>
    where
        F: Fn(Result<Kept, StoreError>) + Sync,
    {
        let entries = fs::read_dir(&self.directory)
            .map_err(|error| StoreError::Io(self.directory.clone(), error))?;
        let entries = Mutex::new(entries);
        let work = || {
            loop {
                let entry = entries.lock().unwrap_or_else(PoisonError::into_inner).next();
                match entry {
                    None => return,
                    Some(Ok(entry)) => {
                        if let Some(result) = self.load_entry(&entry) {
                            each(result);
                        }
                    }
                    Some(Err(error)) => {
                        each(Err(StoreError::Io(self.directory.clone(), error)));
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.max(1) {
                scope.spawn(work);
            }
            work();
        });
        Ok(())
    }

    fn load_entry(&self, entry: &fs::DirEntry) -> Option<Result<Kept, StoreError>> {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str()?;
        if name.starts_with(PART) {
            let _ = fs::remove_file(&path);
            return None;
        }
        if !name.ends_with(ENDING) {
            return None;
        }
        let read = self.read(&path);
        if matches!(read, Err(StoreError::Damaged(..))) {
            let aside = self.directory.join(format!("{name}{DAMAGED}"));
            if let Err(error) = fs::rename(&path, &aside) {
                return Some(Err(StoreError::Io(path, error)));
            }
        }
        Some(read)
    }

    fn read(&self, path: &Path) -> Result<Kept, StoreError> {
        let content = fs::read(path).map_err(|error| StoreError::Io(path.to_owned(), error))?;
        decode(content.into())
            .and_then(|kept| {
                let same = path == self.path(&kept.apex);
                if same { Ok(kept) } else { Err(Damage::Name(kept.apex)) }
            })
            .map_err(|damage| StoreError::Damaged(path.to_owned(), damage))
    }

    /// A new name is in the directory, so it is the directory that must reach the disk too.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn path(&self, apex: &Name) -> PathBuf {
        self.directory.join(file_name(apex))
    }
}

/// The name of a zone's file: letters in lower case, digits, `-` and `_` as they are, all else as
/// `%` and two digits. A name can have any octet, among them `/`. The root is `%`, and a name that is
/// too long for a file system is its beginning, `%` and its digest.
fn file_name(apex: &Name) -> String {
    let mut out = String::new();
    for label in apex.iter().filter(|label| !label.is_root()) {
        if !out.is_empty() {
            out.push('.');
        }
        for octet in label.as_slice() {
            match octet.to_ascii_lowercase() {
                plain @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => out.push(char::from(plain)),
                other => out.push_str(&format!("%{other:02x}")),
            }
        }
    }
    if out.is_empty() {
        out.push('%');
    }
    if out.len() > LONGEST {
        let whole = digest(&SHA256, out.as_bytes());
        out.truncate(100);
        out.push('%');
        out.extend(whole.as_ref().iter().map(|octet| format!("{octet:02x}")));
    }
    out + ENDING
}

fn times(standing: Standing) -> [u8; TIMES] {
    let mut out = [0; TIMES];
    out[..8].copy_from_slice(MAGIC);
    out[8..16].copy_from_slice(&standing.refreshed.to_be_bytes());
    out[16..24].copy_from_slice(&standing.expires.to_be_bytes());
    let check = digest(&SHA256, &out[..24]);
    out[24..].copy_from_slice(&check.as_ref()[..8]);
    out
}

fn encode(
    apex: &Name,
    records: &[Record],
    at: Standing,
    owner: Option<u64>,
) -> Result<Vec<u8>, StoreError> {
    let first = records.first().filter(|record| record.rtype() == Rtype::SOA);
    let first = first.ok_or(StoreError::NoSoa)?;
    let mut out = vec![0; HEADER];
    let head = Head { id: 0, apex: apex.clone(), qtype: Rtype::AXFR, edns: false, expire: None };
    for message in messages(head, records.iter().chain([first])) {
        let message = message?;
        let length = u16::try_from(message.len()).expect("messages are shorter");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&message);
    }
    if let Some(owner) = owner {
        out.extend_from_slice(&owner.to_be_bytes());
    }
    let sum = digest(&SHA256, &out[HEADER..]);
    out[TIMES..HEADER].copy_from_slice(sum.as_ref());
    out[..TIMES].copy_from_slice(&times(at));
    Ok(out)
}

fn decode(mut content: Bytes) -> Result<Kept, Damage> {
    if content.len() < HEADER {
        return Err(Damage::Short);
    }
    let mut header = content.split_to(HEADER);
    if !header.starts_with(MAGIC) {
        return Err(Damage::Magic);
    }
    let written = header.clone();
    header.advance(MAGIC.len());
    let standing = Standing { refreshed: header.get_u64(), expires: header.get_u64() };
    if written[..TIMES] != times(standing) {
        return Err(Damage::Times);
    }
    if written[TIMES..] != *digest(&SHA256, &content).as_ref() {
        return Err(Damage::Digest);
    }
    let mut inbound: Option<Inbound> = None;
    loop {
        let message = take_message(&mut content)?;
        let inbound = match &mut inbound {
            Some(inbound) => inbound,
            none => none.insert(Inbound::new(0, apex_of(&message)?, Kind::Axfr, UNBOUNDED)),
        };
        let Step::Done(received) = inbound.take(message)? else { continue };
        let Received::Zone(records) = received else {
            return Err(Damage::Fault(Fault::Trailing));
        };
        let owner = match &content[..] {
            [] => None,
            octets => Some(octets.try_into().map_err(|_| Damage::Fault(Fault::Trailing))?),
        };
        let owner = owner.map(u64::from_be_bytes);
        let apex = records.first().map(|soa| soa.owner().clone()).ok_or(Damage::Question)?;
        return Ok(Kept { apex, standing, owner, records });
    }
}

fn take_message(content: &mut Bytes) -> Result<Bytes, Damage> {
    let length = content.try_get_u16().map_err(|_| Damage::Short)?;
    if content.len() < usize::from(length) {
        return Err(Damage::Short);
    }
    Ok(content.split_to(usize::from(length)))
}

/// The zone that the first message's question names.
fn apex_of(message: &Bytes) -> Result<Name, Damage> {
    use domain::base::name::ToName;
    let parsed = domain::base::Message::from_slice(message).map_err(|_| Damage::Question)?;
    let question = parsed.sole_question().map_err(|_| Damage::Question)?;
    Ok(question.qname().to_name())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::transfer::fixture::{name, records, zone};

    const AT: Standing = Standing { refreshed: 1_790_000_000, expires: 1_791_000_000 };

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("zones")).unwrap();
        (directory, store)
    }

    fn small(apex: &str) -> Vec<Record> {
        records(&format!(
            "{apex} 60 IN SOA ns.example. host.example. 1 2 3 4 5\n{apex} 60 IN NS ns.example.\n"
        ))
    }

    fn all(store: &Store, threads: usize) -> (Vec<Kept>, Vec<String>) {
        let (good, bad) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        store
            .load_all(threads, |result| match result {
                Ok(kept) => good.lock().unwrap().push(kept),
                Err(error) => bad.lock().unwrap().push(error.to_string()),
            })
            .unwrap();
        (good.into_inner().unwrap(), bad.into_inner().unwrap())
    }

    #[test]
    fn a_zone_is_read_as_it_was_kept_and_others_cannot_read_it() {
        let (_directory, store) = store();
        let apex = name("Example.org");
        store.save(&apex, &zone(7, 300), AT, None).unwrap();
        let kept = store.load(&apex).unwrap().unwrap();
        assert_eq!((kept.standing, &kept.records), (AT, &zone(7, 300)));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.directory), 0o700);
        assert_eq!(mode(&store.path(&apex)), 0o600);
        assert_eq!(kept.owner, None);
        store.save(&apex, &zone(8, 1), AT, Some(256)).unwrap();
        let later = Standing { refreshed: 5, expires: 6 };
        store.confirm(&apex, later).unwrap();
        let kept = store.load(&apex).unwrap().unwrap();
        assert_eq!((kept.standing, kept.owner, kept.records), (later, Some(256), zone(8, 1)));
        assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 1);
        store.remove(&apex).unwrap();
        store.remove(&apex).unwrap();
        assert_eq!(store.load(&apex).unwrap(), None);
        assert!(store.confirm(&apex, later).is_err());
        assert!(matches!(store.save(&apex, &zone(8, 1)[1..], AT, None), Err(StoreError::NoSoa)));
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_others_are_read() {
        let (_directory, store) = store();
        for apex in ["a.example.", "b.example.", "c.example."] {
            store.save(&name(apex), &small(apex), AT, None).unwrap();
        }
        let bad = store.path(&name("b.example"));
        let mut content = fs::read(&bad).unwrap();
        *content.last_mut().unwrap() ^= 1;
        fs::write(&bad, &content).unwrap();
        fs::copy(store.path(&name("a.example")), store.path(&name("d.example"))).unwrap();
        fs::write(store.directory.join(".part-0"), b"half").unwrap();
        let (good, errors) = all(&store, 3);
        assert_eq!(good.len(), 2);
        let text = errors.join("\n");
        assert!(text.contains("b.example.zone: its records are damaged"), "{text}");
        assert!(text.contains("it holds the zone a.example"), "{text}");
        assert!(store.directory.join("b.example.zone.damaged").exists());
        assert!(!store.directory.join(".part-0").exists());
        assert_eq!(all(&store, 1).1, Vec::<String>::new());
    }

    #[test]
    fn names_of_all_octets_are_safe_and_different() {
        let odd = |label: &[u8]| {
            let mut wire = vec![label.len() as u8];
            wire.extend_from_slice(label);
            wire.push(0);
            Name::from_octets(Bytes::from(wire)).unwrap()
        };
        assert_eq!(file_name(&odd(b"../Etc")), "%2e%2e%2fetc.zone");
        assert_eq!(file_name(&odd(b"a%2fb\0")), "a%252fb%00.zone");
        assert_eq!(file_name(&Name::root_bytes()), "%.zone");
        assert_eq!(file_name(&name("a.b")), "a.b.zone");
        assert_eq!(file_name(&odd(b"a.b")), "a%2eb.zone");
        let label = "\\001".repeat(60);
        let long = name(&format!("{label}.{label}.{label}.a"));
        let other = name(&format!("{label}.{label}.{label}.b"));
        assert!(file_name(&long).len() < 200);
        assert_ne!(file_name(&long), file_name(&other));
    }

    #[test]
    fn many_zones_are_read_by_many_threads() {
        let (_directory, store) = store();
        for number in 0..200 {
            let apex = format!("z{number}.example.");
            fs::write(
                store.path(&name(&apex)),
                encode(&name(&apex), &small(&apex), AT, None).unwrap(),
            )
            .unwrap();
        }
        for threads in [0, 1, 4] {
            let (mut good, errors) = all(&store, threads);
            assert!(errors.is_empty());
            good.sort_by_key(|kept| kept.apex.to_string());
            good.dedup_by_key(|kept| kept.apex.to_string());
            assert_eq!(good.len(), 200);
        }
    }

    proptest! {
        #[test]
        fn no_damage_goes_unseen(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut content = encode(&name("example.org"), &zone(1, 3), AT, Some(7)).unwrap();
            let at = at.index(content.len());
            content[at] ^= 1 << bit;
            prop_assert!(decode(content.into()).is_err());
        }

        #[test]
        fn any_octets_are_read_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut content = times(AT).to_vec();
            content.extend_from_slice(digest(&SHA256, &octets).as_ref());
            content.extend_from_slice(&octets);
            let _ = decode(content.into());
        }
    }
}
