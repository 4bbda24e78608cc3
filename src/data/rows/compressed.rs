//! Files of rows as they are, or compressed by gzip or zstd, which their first bytes tell. Both are read as streams, of
//! several parts too, as `cat a.gz b.gz` has them.

use std::fs::File;
use std::io::{BufRead, BufReader, Error as IoError, ErrorKind, Read, Result};
use std::path::Path;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const GZIP: [u8; 2] = [0x1F, 0x8B];
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// What is read ahead of a file and of what comes out of it.
const AHEAD: usize = 1 << 16;

/// How far back a zstd file may refer. `zstd` itself takes so much without being told to.
const WINDOW: u64 = 1 << 27;

/// What such files are called beyond the name of what they hold.
pub(super) const SUFFIXES: [&str; 2] = ["gz", "zst"];

/// A file's bytes, decompressed.
pub(super) type Bytes = BufReader<Box<dyn Read + Send>>;

/// Opens a file.
pub(super) fn open(path: &Path) -> Result<Bytes> {
    let mut file = BufReader::with_capacity(AHEAD, File::open(path)?);
    let start = file.fill_buf()?;
    let bytes: Box<dyn Read + Send> = match (start.starts_with(&GZIP), start.starts_with(&ZSTD)) {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        (_, true) => Box::new(Frames::of(file)),
        _ => Box::new(file),
    };
    Ok(BufReader::with_capacity(AHEAD, bytes))
}

/// About how many bytes the decompression of a file holds: what a zstd file may refer back to, twice, since the buffer
/// grows by doubling.
pub(super) fn held_bytes(path: &Path) -> usize {
    let mut head = [0; 6];
    match File::open(path).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) if head.starts_with(&ZSTD) => 2 * window(head[4], head[5]),
        Ok(()) if head.starts_with(&GZIP) => 1 << 16,
        _ => 0,
    }
}

/// The window by the descriptors of a frame (RFC 8878, 3.1.1.1); a frame of one segment has none, and is small.
fn window(frame: u8, window: u8) -> usize {
    let base = 1_u64 << (10 + (window >> 3));
    let stated = base + base / 8 * u64::from(window & 7);
    let one_segment = frame & 0x20 != 0;
    (if one_segment { 1 << 20 } else { stated.min(WINDOW) }) as usize
}

/// The frames of a zstd file, one behind the other; each one's sum is compared where it has one.
struct Frames {
    file: BufReader<File>,
    frame: FrameDecoder,
    /// Whether a frame is open.
    open: bool,
}

impl Frames {
    fn of(file: BufReader<File>) -> Frames {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(WINDOW);
        Frames { file, frame, open: false }
    }

    /// Opens the next frame, past those that hold nothing of the data; false at the end.
    fn next(&mut self) -> Result<bool> {
        while !self.file.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.file) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = std::io::copy(&mut (&mut self.file).take(length.into()), &mut std::io::sink())?;
                    if skipped < length.into() {
                        return Err(damaged("the file ends in a part of it"));
                    }
                }
                Err(e) => return Err(damaged(e)),
            }
        }
        Ok(false)
    }
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        loop {
            if !self.open && !self.next()? {
                return Ok(0);
            }
            self.open = true;
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                self.frame.decode_blocks(&mut self.file, BlockDecodingStrategy::UptoBlocks(1)).map_err(damaged)?;
            }
            let n = self.frame.read(out)?;
            if n > 0 || out.is_empty() {
                return Ok(n);
            }
            self.open = false;
            let stated = self.frame.get_checksum_from_data();
            if stated.is_some() && stated != self.frame.get_calculated_checksum() {
                return Err(damaged("its sum is another"));
            }
        }
    }
}

fn damaged(e: impl std::fmt::Display) -> IoError {
    IoError::new(ErrorKind::InvalidData, format!("the file is compressed by zstd and cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &[u8] = b"{\"a\": 1}\n{\"a\": 2}\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn read(bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        std::fs::write(&path, bytes).unwrap();
        let mut out = Vec::new();
        open(&path).and_then(|mut file| file.read_to_end(&mut out)).map(|_| out).map_err(|e| e.to_string())
    }

    #[test]
    fn files_of_several_parts_are_read_to_their_ends() {
        let twice = [TEXT, TEXT].concat();
        assert_eq!(read(TEXT).unwrap(), TEXT);
        assert_eq!(read(b"").unwrap(), b"");
        for packed in [gzip(TEXT), zstd(TEXT)] {
            assert_eq!(read(&packed).unwrap(), TEXT);
            assert_eq!(read(&[packed.clone(), packed.clone()].concat()).unwrap(), twice);
            let cut = read(&packed[..packed.len() - 1]);
            assert!(cut.is_err(), "a file that is cut off is read as if it were whole: {cut:?}");
        }
        // pzstd writes the sizes of its frames into frames that a reader skips.
        let skipped = [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 9, 9, 9, 9], &zstd(TEXT)[..]].concat();
        assert_eq!(read(&[zstd(TEXT), skipped.clone()].concat()).unwrap(), twice);
        assert!(read(&[zstd(TEXT), skipped[..10].to_vec()].concat()).unwrap_err().contains("the file ends"));
        assert!(read(&[&zstd(TEXT)[..], b"x\ny\nz"].concat()).unwrap_err().contains("compressed by zstd"));
    }

    #[test]
    fn a_file_that_zstd_wrote_is_read_and_its_sum_compared() {
        // `seq 1 2000 | sed 's/.*/{"a": &}/' | zstd -19 --check -c`, by zstd 1.5.4 through a pipe.
        let bytes = include_bytes!("../../../tests/golden/rows.jsonl.zst");
        let text: String = (1..=2000).map(|i| format!("{{\"a\": {i}}}\n")).collect();
        assert!(read(bytes).unwrap() == text.as_bytes(), "the file holds 2000 rows");
        let mut changed = bytes.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert!(read(&changed).unwrap_err().ends_with("its sum is another"));
        assert_eq!(window(bytes[4], bytes[5]), 8 << 20, "that level's own");
    }
}
