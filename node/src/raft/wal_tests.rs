//! What survives: reopening, torn tails, flipped bits, rotation and purges.

use std::sync::mpsc;

use super::*;

fn entry(index: u64, size: usize) -> Record {
    Record { kind: RecordKind::Entry, index, payload: vec![u8::try_from(index % 251).expect("small"); size] }
}

fn append(wal: &Wal, records: Vec<Record>) {
    let (tx, rx) = mpsc::channel();
    wal.append(records, Box::new(move |result| tx.send(result).expect("the test waits")));
    rx.recv().expect("the log answers").expect("the log can be written");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

fn last_file(folder: &Path) -> PathBuf {
    let numbers = segment::list(folder).expect("the folder can be read");
    segment::path(folder, *numbers.last().expect("there is a segment"))
}

#[test]
fn what_was_acknowledged_is_there_again() {
    let folder = folder();
    let (wal, records) = Wal::open(folder.path()).expect("an empty folder is fine");
    assert!(records.is_empty());
    let written: Vec<Record> = (1..=100).map(|index| entry(index, 100)).collect();
    for record in &written {
        append(&wal, vec![record.clone()]);
    }
    // Not stopped: as after a kill.
    let (_, records) = Wal::open(folder.path()).expect("the log is whole");
    assert_eq!(records, written);
}

#[test]
fn a_torn_write_is_erased_and_the_log_goes_on() {
    let folder = folder();
    let (wal, _) = Wal::open(folder.path()).expect("an empty folder is fine");
    append(&wal, vec![entry(1, 50)]);
    append(&wal, vec![entry(2, 50)]);
    wal.stop();
    let path = last_file(folder.path());
    let mut bytes = fs::read(&path).expect("it can be read");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("something was written");
    bytes[end] ^= 0x40;
    fs::write(&path, &bytes).expect("it can be written");
    let (wal, records) = Wal::open(folder.path()).expect("a torn tail is survived");
    assert_eq!(records, [entry(1, 50)]);
    append(&wal, vec![entry(2, 10)]);
    wal.stop();
    let (_, records) = Wal::open(folder.path()).expect("the log is whole");
    assert_eq!(records, [entry(1, 50), entry(2, 10)]);
}

#[test]
fn damage_before_the_tail_is_refused() {
    let folder = folder();
    let (wal, _) = Wal::open(folder.path()).expect("an empty folder is fine");
    for index in 1..=3 {
        append(&wal, vec![entry(index, 50)]);
    }
    wal.stop();
    let path = last_file(folder.path());
    let mut bytes = fs::read(&path).expect("it can be read");
    bytes[40] ^= 1;
    fs::write(&path, &bytes).expect("it can be written");
    match Wal::open(folder.path()) {
        Err(DamageError::Damaged { offset, .. }) => assert_eq!(offset, 8),
        other => panic!("damage went through: {:?}", other.map(|(_, records)| records.len())),
    }
}

#[test]
fn segments_rotate_carry_the_vote_and_go_once_covered() {
    let folder = folder();
    let (wal, _) = Wal::open(folder.path()).expect("an empty folder is fine");
    let vote = Record { kind: RecordKind::Vote, index: 0, payload: b"vote".to_vec() };
    append(&wal, vec![vote.clone()]);
    let size = usize::try_from(SEGMENT_BYTES / 4).expect("it is small");
    for index in 1..=12 {
        append(&wal, vec![entry(index, size)]);
    }
    assert!(segment::list(folder.path()).expect("it can be read").len() >= 3);
    append(&wal, vec![Record { kind: RecordKind::Purge, index: 11, payload: b"purge".to_vec() }]);
    wal.stop();
    let left = segment::list(folder.path()).expect("it can be read");
    assert!(left.len() <= 2, "covered segments are deleted: {left:?}");
    let (_, records) = Wal::open(folder.path()).expect("the log is whole");
    assert!(records.contains(&vote), "the vote survives the segment it was written to");
    assert!(records.iter().any(|record| record.index == 12));
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let folder = folder();
    let (wal, _) = Wal::open(folder.path()).expect("an empty folder is fine");
    let size = usize::try_from(SEGMENT_BYTES).expect("it is small") + 10;
    append(&wal, vec![entry(1, size)]);
    append(&wal, vec![entry(2, 10)]);
    wal.stop();
    let (_, records) = Wal::open(folder.path()).expect("the log is whole");
    assert_eq!(records.iter().map(|record| record.payload.len()).collect::<Vec<_>>(), [size, 10]);
}

#[test]
fn a_full_disk_is_waited_out_and_other_errors_are_not() {
    let is_stopping = AtomicBool::new(false);
    let mut left = 2;
    let done = once_there_is_room("a test", &is_stopping, || {
        left -= 1;
        if left > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(left) }
    });
    assert_eq!(done.expect("there is room the second time"), 0);

    let refused = once_there_is_room("a test", &is_stopping, || Err::<(), _>(io::ErrorKind::ReadOnlyFilesystem.into()));
    assert_eq!(refused.expect_err("it is told").kind(), io::ErrorKind::ReadOnlyFilesystem);

    is_stopping.store(true, Ordering::Relaxed);
    let stopped = once_there_is_room("a test", &is_stopping, || Err::<(), _>(io::ErrorKind::StorageFull.into()));
    assert_eq!(stopped.expect_err("a node that stops waits for nothing").kind(), io::ErrorKind::StorageFull);
}
