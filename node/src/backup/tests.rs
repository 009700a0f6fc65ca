//! What is written is read back, whatever is wrong with a file is noticed, and old files stay readable.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::codec::encode_definitions;
use control_plane::model::{
    Concurrency, Constraints, FunctionSpec, HttpTrigger, Network, Resources, RevisionNumber, RevisionSpec, Runtime,
    Scaling, Trigger,
};
use control_plane::state::{Command, State};
use proptest::prelude::*;

use super::*;

/// What the golden file holds; it must never change.
fn golden() -> (Header, Definitions) {
    let mut state = State::default();
    for (at, image) in [(1_000, 7), (2_000, 8)] {
        let revision = RevisionSpec {
            runtime: Runtime::Python3,
            image: Digest::from_bytes([image; 32]),
            command: vec![],
            handler: Some("app.handler".to_owned()),
            environment: BTreeMap::from([("LOG".to_owned(), "info".to_owned())]),
            resources: Resources { pids: 64, ..Resources::default() },
            timeout: Duration::from_secs(30),
            concurrency: Concurrency::ONE,
            network: Network::Egress,
            user: Some(1000),
            placement: Constraints::default(),
        };
        let path = "/resize/*".parse().unwrap();
        let spec = FunctionSpec {
            name: "resize".parse().unwrap(),
            revision,
            scaling: Scaling::new(1, 20, Duration::from_secs(3600)).unwrap(),
            triggers: vec![Trigger::Http(HttpTrigger { host: Some("shop.example".to_owned()), path, methods: vec![] })],
        };
        let gone = FunctionSpec { name: "gone".parse().unwrap(), triggers: vec![], ..spec.clone() };
        for functions in [vec![spec.clone(), gone], vec![spec]] {
            let app = "shop".parse().unwrap();
            let deploy = Command::DeployApp { app, functions, check_index: None };
            state.apply(Timestamp::from_millis(at), deploy).unwrap();
        }
        let live = RevisionId { function: "resize".parse().unwrap(), number: RevisionNumber(1) };
        state.apply(Timestamp::from_millis(at), Command::Promote { revision: live }).unwrap();
    }
    let definitions = state.definitions();
    let note = |size_bytes, is_included| ImageNote { size_bytes, is_included };
    let header = Header {
        created_at: Timestamp::from_millis(1_795_521_600_000),
        cluster: "0f".repeat(16),
        version: "0.1.0".to_owned(),
        index: definitions.index,
        counts: Counts::of(&definitions),
        nodes: 3,
        images: BTreeMap::from([
            (Digest::from_bytes([7; 32]), note(Some(4), true)),
            (Digest::from_bytes([8; 32]), note(None, false)),
        ]),
    };
    (header, definitions)
}

/// The SHA-256 of `blob`.
const BLOB_DIGEST: &str = "sha256:fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8";

fn written() -> Vec<u8> {
    let (header, definitions) = golden();
    let mut writer = Writer::begin(Vec::new(), &header, &encode_definitions(&definitions)).unwrap();
    writer.blob(&BLOB_DIGEST.parse().unwrap(), 4, &b"blob"[..]).unwrap();
    writer.finish().unwrap()
}

/// Reads a backup and the blobs in it.
fn taken(bytes: &[u8]) -> Result<(Backup, BTreeMap<String, Vec<u8>>), ReadError> {
    let mut blobs = BTreeMap::new();
    let backup = read(bytes, &mut |digest, content| {
        let mut blob = Vec::new();
        content.read_to_end(&mut blob)?;
        blobs.insert(digest.to_string(), blob);
        Ok(())
    })?;
    Ok((backup, blobs))
}

#[test]
fn what_is_written_is_read_back() {
    let (header, definitions) = golden();
    assert_eq!(definitions.deleted.len(), 1, "a deleted function is remembered");
    let (backup, blobs) = taken(&written()).unwrap();
    assert_eq!(backup, Backup { format: FORMAT, header, definitions });
    assert_eq!(blobs, BTreeMap::from([(BLOB_DIGEST.to_owned(), b"blob".to_vec())]));
    let passed_over = read(&written()[..], &mut |_, _| Ok(())).unwrap();
    assert_eq!(passed_over, backup, "blobs that nobody takes are read past");
}

/// `UPDATE_EXPECT=1` writes the file if it is not there; one that is there is never written again.
#[test]
fn a_backup_of_format_one_is_read_for_ever() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backup/golden/format-1.hearth");
    if std::env::var_os("UPDATE_EXPECT").is_some() && !path.exists() {
        std::fs::write(&path, written()).unwrap();
    }
    let (header, definitions) = golden();
    let (backup, blobs) = taken(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(backup, Backup { format: 1, header, definitions });
    assert_eq!(blobs.len(), 1);
}

#[test]
fn a_file_that_was_cut_off_or_goes_on_is_none() {
    let whole = written();
    for length in 0..whole.len() {
        let error = taken(&whole[..length]).unwrap_err();
        assert!(matches!(error, ReadError::CutOff | ReadError::Foreign), "{length}: {error}");
        assert!(error.hint().is_some());
    }
    let longer = [&whole[..], b"!"].concat();
    assert_eq!(taken(&longer).unwrap_err().to_string(), "the backup is damaged: it goes on after its end");
}

#[test]
fn another_file_and_a_newer_format_are_told_apart() {
    assert!(matches!(taken(b"PK\x03\x04 an archive"), Err(ReadError::Foreign)));
    let mut newer = written();
    newer[8] = 2;
    let error = taken(&newer).unwrap_err();
    assert_eq!(error.to_string(), "the backup has format 2, this version reads up to 1");
    assert!(error.hint().unwrap().contains("newer"));
}

#[test]
fn a_header_about_something_else_is_refused_though_its_checksum_holds() {
    let (header, definitions) = golden();
    for wrong in [
        Header { index: header.index + 1, ..header.clone() },
        Header { counts: Counts { functions: 9, ..header.counts }, ..header.clone() },
        Header { images: BTreeMap::new(), ..header.clone() },
    ] {
        let bytes = Writer::begin(Vec::new(), &wrong, &encode_definitions(&definitions)).unwrap().finish().unwrap();
        let told = taken(&bytes).unwrap_err().to_string();
        assert_eq!(told, "the backup is damaged: its header is about something else");
    }
}

#[test]
fn a_blob_that_rotted_is_not_written() {
    let (header, definitions) = golden();
    let mut writer = Writer::begin(Vec::new(), &header, &encode_definitions(&definitions)).unwrap();
    let told = writer.blob(&BLOB_DIGEST.parse().unwrap(), 4, &b"blub"[..]).unwrap_err();
    assert!(told.to_string().contains("is damaged"), "{told}");
}

#[test]
fn what_cannot_be_kept_is_no_damage() {
    let full = |_: &Digest, _: &mut dyn std::io::Read| Err(std::io::ErrorKind::StorageFull.into());
    assert!(matches!(read(&written()[..], &mut { full }), Err(ReadError::Io(_))));
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = written();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(taken(&bytes).is_err(), "byte {}", at);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = taken(&[&written()[..12], &tail].concat());
    }
}
