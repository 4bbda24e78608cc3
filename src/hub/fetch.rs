//! One file on its way into a cache: a partial file that grows, is compared with the hub's hash, and becomes a blob.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::client::{again, refused, Client, Fault, HubFile};
use crate::disk::{place, writing};
use crate::error::{Error, Result};

/// Bytes that are read at once.
const PIECE: usize = 1 << 18;

/// The partial file, all of which has gone through the hash.
struct Partial<'a> {
    file: File,
    path: &'a Path,
    bytes: u64,
    hash: Context,
}

/// The content's hash as the etag has it: of 64 digits SHA-256, else git's of a blob.
fn hasher(file: &HubFile) -> Context {
    if file.etag.len() == 64 {
        return Context::new(&SHA256);
    }
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(format!("blob {}\0", file.bytes).as_bytes());
    hash
}

impl Partial<'_> {
    /// Opens what an earlier try has left, or nothing.
    fn open<'a>(path: &'a Path, of: &HubFile) -> Result<Partial<'a>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io(path))?;
        let mut hash = hasher(of);
        let mut bytes = file.metadata().map_err(Error::io(path))?.len();
        if bytes > of.bytes {
            bytes = 0;
            file.set_len(0).map_err(Error::io(path))?;
        }
        let mut piece = vec![0; PIECE];
        loop {
            let n = file.read(&mut piece).map_err(Error::io(path))?;
            if n == 0 {
                return Ok(Partial { file, path, bytes, hash });
            }
            hash.update(&piece[..n]);
        }
    }

    /// Begins it anew.
    fn clear(&mut self, of: &HubFile) -> Result<()> {
        (self.bytes, self.hash) = (0, hasher(of));
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(Error::io(self.path))
    }

    fn append(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).map_err(writing(self.path, Some(piece.len() as u64)))?;
        self.hash.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }
}

/// Brings a file of a commit into the folder of blobs, from where an earlier try ended. `observe` is told of the bytes
/// that are there, and stops it by an error.
///
/// # Errors
/// [`Error::Download`] when the server does not send it; what came stays. It also names a content that is not what the hub
/// lists, which goes.
pub(super) fn fetch(
    client: &Client,
    (repo, commit): (&str, &str),
    file: &HubFile,
    blobs: &Path,
    observe: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<PathBuf> {
    let blob = blobs.join(&file.etag);
    let path = blobs.join(format!("{}.incomplete", file.etag));
    let mut partial = Partial::open(&path, file)?;
    let mut tries = 0;
    while partial.bytes < file.bytes {
        let before = partial.bytes;
        if let Err(fault) = more(client, (repo, commit), file, &mut partial, observe) {
            if partial.bytes > before {
                tries = 0;
            }
            again(fault, &mut tries)?;
        }
    }
    let Partial { file: open, hash, .. } = partial;
    drop(open);
    let found: String = hash.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    if found != file.etag {
        fs::remove_file(&path).map_err(Error::io(&path))?;
        let reason = format!(
            "{}: what came has the hash {found}, and the hub lists {}; it is not kept, a new try begins it anew",
            file.name, file.etag
        );
        return Err(refused(&client.place(repo, commit, &file.name), reason));
    }
    place(&path, &blob)?;
    Ok(blob)
}

/// Reads on until the connection ends.
fn more(
    client: &Client,
    (repo, commit): (&str, &str),
    file: &HubFile,
    partial: &mut Partial<'_>,
    observe: &mut dyn FnMut(u64) -> Result<()>,
) -> std::result::Result<(), Fault> {
    let url = || client.place(repo, commit, &file.name);
    let ended = |partial: &Partial<'_>, why: String| {
        let reason = format!("the connection ended at byte {} of {}{why}", partial.bytes, file.bytes);
        Fault::Passing(refused(&url(), reason))
    };
    let (at, mut body) = client.read(repo, commit, file, partial.bytes)?;
    if at != partial.bytes {
        partial.clear(file).map_err(Fault::Final)?;
    }
    let mut piece = vec![0; PIECE];
    loop {
        let n = match body.read(&mut piece) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ended(partial, format!(": {e}"))),
        };
        if n == 0 && partial.bytes < file.bytes {
            return Err(ended(partial, String::new()));
        }
        if n == 0 {
            return Ok(());
        }
        if partial.bytes + n as u64 > file.bytes {
            partial.clear(file).map_err(Fault::Final)?;
            return Err(Fault::Final(refused(&url(), format!("more came than the {} bytes it has", file.bytes))));
        }
        partial.append(&piece[..n]).and_then(|()| observe(partial.bytes)).map_err(Fault::Final)?;
    }
}
