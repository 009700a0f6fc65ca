//! Takes a backup apart: its blobs become an OCI layout, out of which images are imported like any other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use control_plane::model::Digest;
use serde_json::json;

use super::{Backup, Header, ReadError, read};

/// Reads a backup whole; its blobs are an OCI layout in `folder` afterwards, in which the tag of each image is its digest.
pub fn unpack(file: impl Read, folder: &Path) -> Result<Backup, ReadError> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(ReadError::Io)?;
    let mut sizes = BTreeMap::new();
    let mut take = |digest: &Digest, content: &mut dyn Read| {
        let size = io::copy(content, &mut File::create(blobs.join(digest.hex()))?)?;
        sizes.insert(*digest, size);
        Ok(())
    };
    let backup = read(file, &mut take)?;
    describe(folder, &backup.header, &sizes).map_err(ReadError::Io)?;
    Ok(backup)
}

/// Writes what makes a folder of blobs an OCI layout.
fn describe(folder: &Path, header: &Header, sizes: &BTreeMap<Digest, u64>) -> io::Result<()> {
    let included = header.images.iter().filter(|(_, note)| note.is_included);
    let manifests: Vec<serde_json::Value> = included
        .map(|(image, _)| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": image.to_string(),
                "size": sizes.get(image).copied().unwrap_or(0),
                "annotations": {"org.opencontainers.image.ref.name": image.to_string()},
            })
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    fs::write(folder.join("index.json"), index.to_string())?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)
}
