//! Archives as hostile as archives can be.

use std::io::{Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

/// One entry of an archive, as hostile as a header can be.
struct Raw<'a> {
    kind: tar::EntryType,
    path: &'a str,
    link: &'a str,
    mode: u32,
    size: Option<u64>,
}

fn raw<'a>(kind: tar::EntryType, path: &'a str, link: &'a str) -> Raw<'a> {
    Raw { kind, path, link, mode: 0o4777, size: None }
}

fn file(path: &str) -> Raw<'_> {
    raw(tar::EntryType::Regular, path, "")
}

fn link<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
    raw(tar::EntryType::Symlink, path, target)
}

/// Writes headers byte by byte: a well-meant builder would refuse most of these.
fn archive(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let body: &[u8] = if entry.kind == tar::EntryType::Regular { b"body" } else { b"" };
        append(&mut bytes, entry, body);
    }
    ended(bytes)
}

/// Appends one entry with any content.
fn append(bytes: &mut Vec<u8>, entry: &Raw<'_>, body: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(entry.kind);
    let old = header.as_old_mut();
    old.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
    old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
    header.set_mode(entry.mode);
    header.set_uid(7);
    header.set_gid(1 << 20);
    header.set_mtime(0);
    header.set_size(entry.size.unwrap_or(body.len() as u64));
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

fn ended(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Returns one record of a PAX header, which begins with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length);
    format!("{}{rest}", length.expect("some length fits"))
}

/// Unpacks into a root beside a file that nothing may touch.
fn attempt(entries: &[Raw<'_>], limits: &UnpackLimits) -> (tempfile::TempDir, Result<(), UnpackError>) {
    attempt_bytes(&archive(entries), limits)
}

fn attempt_bytes(bytes: &[u8], limits: &UnpackLimits) -> (tempfile::TempDir, Result<(), UnpackError>) {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let root = folder.path().join("root");
    std::fs::create_dir(&root).expect("a folder can be made");
    std::fs::write(folder.path().join("outside"), "untouched").expect("a file can be written");
    let mut archive = tempfile::tempfile().expect("a file can be made");
    archive.write_all(bytes).expect("it can be written");
    archive.rewind().expect("it can be read again");
    let result = unpack(&archive, &root, limits);
    let outside = std::fs::read_to_string(folder.path().join("outside"));
    assert_eq!(outside.expect("it is still there"), "untouched");
    let beside = std::fs::read_dir(folder.path()).expect("it can be read").count();
    assert_eq!(beside, 2, "something was written beside the root");
    (folder, result)
}

#[test]
fn hostile_archives_are_refused() {
    use tar::EntryType as Kind;
    let cases: [(&str, Vec<Raw<'_>>); 12] = [
        ("a path that goes up", vec![file("../outside")]),
        ("an absolute path", vec![file("/etc/passwd")]),
        ("a path that goes up inside", vec![file("a/../../outside")]),
        ("a hard link to outside", vec![raw(Kind::Link, "a", "../outside")]),
        ("an absolute hard link", vec![raw(Kind::Link, "a", "/etc/passwd")]),
        ("a device", vec![raw(Kind::Char, "null", "")]),
        ("a disk", vec![raw(Kind::Block, "disk", "")]),
        ("a named pipe", vec![raw(Kind::Fifo, "pipe", "")]),
        ("/proc as a link", vec![link("proc", "/tmp")]),
        ("/proc as a link, by another way to the root", vec![link("way", "."), link("way/proc", "/tmp")]),
        ("a whiteout of the parent", vec![file("a/.wh...")]),
        ("a whiteout of nothing", vec![file("a/.wh.")]),
    ];
    for (what, entries) in cases {
        let (_, result) = attempt(&entries, &UnpackLimits::default());
        assert!(result.is_err(), "{what} was taken");
    }
}

#[test]
fn a_link_leads_nowhere_but_into_the_root() {
    for target in ["..", "../..", "/", "/../.."] {
        let entries = [link("door", target), file("door/outside")];
        let (folder, result) = attempt(&entries, &UnpackLimits::default());
        assert!(result.is_ok(), "{target}: {result:?}");
        assert!(folder.path().join("root/outside").exists(), "{target} is the root itself");
    }
}

#[test]
fn limits_hold_while_the_archive_streams() {
    let many: Vec<Raw<'_>> = (0..4).map(|_| file("a")).collect();
    let limits = UnpackLimits { entries: 3, bytes: 100, depth: 3, path: 20, ..UnpackLimits::default() };
    let refused = |entries: &[Raw<'_>]| matches!(attempt(entries, &limits).1, Err(UnpackError::Limit { .. }));
    assert!(refused(&many), "entries");
    assert!(refused(&[file("a/b/c/d")]), "depth");
    assert!(refused(&[file("a-name-of-more-than-twenty-bytes")]), "path");
    assert!(refused(&[Raw { size: Some(1 << 40), ..file("bomb") }]), "bytes");
}

#[test]
fn owners_are_shifted_and_no_mode_gives_rights() {
    let (folder, result) = attempt(&[file("a/b")], &UnpackLimits::default());
    result.expect("it is harmless");
    let metadata = std::fs::metadata(folder.path().join("root/a/b")).expect("it is there");
    assert_eq!((metadata.uid(), metadata.gid()), (ID_SHIFT + 7, ID_SHIFT + 65_534));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o777, "setuid is gone");
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_link_and_not_of_what_it_names() {
    let (folder, result) = attempt(&[file("target"), link("a", "target"), file("a")], &UnpackLimits::default());
    result.expect("it is harmless");
    let metadata = std::fs::symlink_metadata(folder.path().join("root/a")).expect("it is there");
    assert!(metadata.is_file());
}

fn limit_of(result: Result<(), UnpackError>) -> &'static str {
    match result {
        Err(UnpackError::Limit { what, .. }) => what,
        other => panic!("no limit refused it: {other:?}"),
    }
}

/// The head of a file of zeros, as large as bombs are.
fn bomb_head(size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, &Raw { size: Some(size), ..file("bomb") }, b"");
    bytes
}

/// Compresses like the hand of somebody hostile: every block of zeros is four bytes.
fn zstd_bomb(head: &[u8], blocks: u32, window: u8) -> Vec<u8> {
    let block = |is_last: bool, kind: u32, size: usize| {
        let word = u32::from(is_last) | kind << 1 | u32::try_from(size).expect("it is small") << 3;
        word.to_le_bytes()[..3].to_vec()
    };
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    bytes.extend(block(false, 0, head.len()));
    bytes.extend_from_slice(head);
    for number in 1..=blocks {
        bytes.extend(block(number == blocks, 1, 128 << 10));
        bytes.push(0);
    }
    bytes
}

/// A window of 2 MiB.
const WINDOW: u8 = 11 << 3;

#[test]
fn bombs_are_refused_while_they_go_off() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bomb_head(300 << 20)).expect("memory takes it");
    io::copy(&mut io::repeat(0).take(300 << 20), &mut gzip).expect("memory takes it");
    let gzip = gzip.finish().expect("memory takes it");
    let zstd = zstd_bomb(&bomb_head(4 << 30), 32 << 10, WINDOW);
    assert!(gzip.len() < 4 << 20 && zstd.len() < 200 << 10, "{} {}", gzip.len(), zstd.len());
    for bomb in [&gzip, &zstd] {
        let limits = UnpackLimits { ratio: 50, ..UnpackLimits::default() };
        let (folder, result) = attempt_bytes(bomb, &limits);
        assert_eq!(limit_of(result), "times its size once it is decompressed");
        let written = std::fs::metadata(folder.path().join("root/bomb")).map_or(0, |metadata| metadata.len());
        assert!(written <= RATIO_FREE + (4 << 20) * 50, "{written} bytes were written");
        let limits = UnpackLimits { archive: 1 << 20, ..UnpackLimits::default() };
        assert_eq!(limit_of(attempt_bytes(bomb, &limits).1), "bytes once it is decompressed");
        let limits = UnpackLimits { bytes: 1 << 20, ..UnpackLimits::default() };
        assert_eq!(limit_of(attempt_bytes(bomb, &limits).1), "bytes");
    }
    // What comes behind the end of the archive counts as well.
    let trailing = zstd_bomb(&ended(Vec::new()), 32 << 10, WINDOW);
    assert_eq!(
        limit_of(attempt_bytes(&trailing, &UnpackLimits::default()).1),
        "times its size once it is decompressed"
    );
    // A frame that wants 128 MiB to be remembered.
    let wide = zstd_bomb(&archive(&[file("a")]), 1, 17 << 3);
    assert!(matches!(attempt_bytes(&wide, &UnpackLimits::default()).1, Err(UnpackError::Io(_))));
}

#[test]
fn compressed_archives_hold_what_plain_ones_do() {
    let plain = archive(&[file("a/b"), file("c")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).expect("memory takes it");
    let gzip = gzip.finish().expect("memory takes it");
    // Frame, a frame to skip, frame: as tools write them that can be read in parts.
    let half = 512;
    let mut zstd = ruzstd::encoding::compress_to_vec(&plain[..half], ruzstd::encoding::CompressionLevel::Fastest);
    zstd.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    zstd.extend(ruzstd::encoding::compress_to_vec(&plain[half..], ruzstd::encoding::CompressionLevel::Fastest));
    let mut contents = Vec::new();
    for bytes in [&plain, &gzip, &zstd] {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let mut archive = tempfile::tempfile().expect("a file can be made");
        archive.write_all(bytes).expect("it can be written");
        archive.rewind().expect("it can be read again");
        let digests = unpack_layer(&archive, folder.path(), &UnpackLimits::default()).expect("it is harmless");
        assert_eq!(digests.file, super::super::blob::of(bytes));
        contents.push(digests.content);
        assert_eq!(std::fs::read(folder.path().join("a/b")).expect("it is there"), b"body");
    }
    assert!(contents.iter().all(|content| *content == super::super::blob::of(&plain)), "{contents:?}");
}

#[test]
fn two_sizes_of_one_entry_hide_nothing() {
    // By the header the entry is empty and a device follows; by PAX the device is its content.
    let mut hidden = Vec::new();
    append(&mut hidden, &raw(tar::EntryType::Char, "null", ""), b"");
    let attempt = |pax: u64, size: u64| {
        let mut bytes = Vec::new();
        append(&mut bytes, &raw(tar::EntryType::XHeader, "pax", ""), record("size", &pax.to_string()).as_bytes());
        append(&mut bytes, &Raw { size: Some(size), ..file("a") }, &hidden);
        attempt_bytes(&ended(bytes), &UnpackLimits::default())
    };
    let (folder, result) = attempt(512, 0);
    result.expect("there is no device but in a file");
    assert_eq!(std::fs::metadata(folder.path().join("root/a")).expect("it is there").len(), 512);
    // The other way round the device is an entry, and is refused.
    assert!(matches!(attempt(0, 512).1, Err(UnpackError::Kind { .. })));
    assert_eq!(limit_of(attempt(1 << 60, 512).1), "bytes");
}

#[test]
fn long_names_are_refused_before_they_fill_memory() {
    let named = |kind, length: usize| {
        let mut bytes = Vec::new();
        append(&mut bytes, &raw(kind, "././@LongLink", ""), &vec![b'a'; length]);
        append(&mut bytes, &file("short"), b"body");
        limit_of(attempt_bytes(&ended(bytes), &UnpackLimits::default()).1)
    };
    assert_eq!(named(tar::EntryType::GNULongName, 1025), "bytes in a path");
    assert_eq!(named(tar::EntryType::GNULongName, 2 << 20), "bytes in the names and attributes of an entry");
    assert_eq!(named(tar::EntryType::GNULongLink, 2 << 20), "bytes in the names and attributes of an entry");
    assert_eq!(named(tar::EntryType::XHeader, 2 << 20), "bytes in the names and attributes of an entry");
    assert_eq!(named(tar::EntryType::XGlobalHeader, 2 << 20), "bytes in the names and attributes of an entry");
}

#[test]
fn duplicates_and_sparse_files_stay_within_their_limits() {
    let entries = [
        raw(tar::EntryType::Directory, "a", ""),
        file("a/inner"),
        link("a", ".."),
        file("a/outside"),
        file("twice"),
        raw(tar::EntryType::Directory, "twice", ""),
        file("twice"),
    ];
    let (folder, result) = attempt(&entries, &UnpackLimits::default());
    result.expect("it is harmless");
    assert!(folder.path().join("root/outside").is_file() && folder.path().join("root/twice").is_file());

    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").expect("it is short");
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_size, tar::Header::set_mtime] {
        set(&mut header, 0);
    }
    let gnu = header.as_gnu_mut().expect("it was made as one");
    // Eight GiB less one of a hole.
    gnu.realsize.copy_from_slice(b"77777777777\0");
    gnu.sparse[0].offset.copy_from_slice(b"77777777777\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    header.set_cksum();
    let bytes = ended(header.as_bytes().to_vec());
    let limits = UnpackLimits { bytes: 1 << 30, ..UnpackLimits::default() };
    assert_eq!(limit_of(attempt_bytes(&bytes, &limits).1), "bytes");
}

#[test]
fn a_million_entries_are_refused() {
    let mut one = Vec::new();
    append(&mut one, &raw(tar::EntryType::XGlobalHeader, "pax", ""), b"");
    let some = one.repeat(1000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..1000 {
        gzip.write_all(&some).expect("memory takes it");
    }
    let gzip = gzip.finish().expect("memory takes it");
    assert_eq!(limit_of(attempt_bytes(&gzip, &UnpackLimits::default()).1), "entries");
}

#[test]
fn no_attribute_comes_out_of_an_archive() {
    let mut bytes = Vec::new();
    let records: String = [
        ("SCHILY.xattr.security.capability", "\u{1}\u{0}\u{0}\u{2}"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ("SCHILY.xattr.user.overlay.whiteout", "y"),
        ("LIBARCHIVE.xattr.security.capability", "AQAAAg=="),
    ]
    .iter()
    .map(|(key, value)| record(key, value))
    .collect();
    for entry in [file("a"), raw(tar::EntryType::Directory, "b", "")] {
        append(&mut bytes, &raw(tar::EntryType::XHeader, "pax", ""), records.as_bytes());
        append(&mut bytes, &entry, b"");
    }
    let (folder, result) = attempt_bytes(&ended(bytes), &UnpackLimits::default());
    result.expect("it is harmless");
    for name in ["root/a", "root/b"] {
        let mut names = [0; 256];
        let length = rustix::fs::listxattr(folder.path().join(name), &mut names[..]).expect("they can be listed");
        assert_eq!(length, 0, "{name}: {:?}", String::from_utf8_lossy(&names[..length]));
    }
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_beside_them() {
    let entries = [
        file("etc/.wh.gone"),
        file("kept/mine"),
        file("kept/.wh..wh..opq"),
        file("early/.wh..wh..opq"),
        file("early/mine"),
        file(".wh.late"),
        file("late/mine"),
        raw(tar::EntryType::Directory, "first", ""),
        file("first/mine"),
        file(".wh.first"),
        file("same"),
        file(".wh.same"),
        file(".wh.again"),
        file("again"),
        link("door", "/etc"),
        file("door/.wh.passwd"),
    ];
    let (folder, result) = attempt(&entries, &UnpackLimits::default());
    result.expect("it is harmless");
    let root = folder.path().join("root");
    let is_whiteout = |path: &str| {
        let metadata = std::fs::symlink_metadata(root.join(path)).expect("it is there");
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    };
    assert!(is_whiteout("etc/gone") && is_whiteout("etc/passwd"), "deleted below");
    for folder in ["kept", "early", "late", "first"] {
        assert!(root.join(folder).join("mine").is_file(), "{folder} keeps what this layer has in it");
        assert!(is_opaque(&root.join(folder)), "{folder} hides what is below");
    }
    assert!(root.join("same").is_file() && root.join("again").is_file(), "a layer's own files stay");
    assert!(!is_opaque(&root) && !is_opaque(&root.join("etc")));
    let (folder, result) = attempt(&[file(".wh..wh..opq")], &UnpackLimits::default());
    result.expect("it is harmless");
    assert!(is_opaque(&folder.path().join("root")), "a layer may hide everything below it");
}
