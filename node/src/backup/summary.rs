//! What a backup says about itself, for people and programs.

use proto::json;

use super::{Backup, Header, images_of};

/// Returns what a backup says about itself.
pub fn summary(backup: &Backup) -> json::Snapshot {
    let users = images_of(&backup.definitions);
    let images = backup.header.images.iter().map(|(image, note)| json::SnapshotImage {
        image: image.to_string(),
        size_bytes: note.size_bytes,
        included: note.is_included,
        used_by: users.get(image).into_iter().flatten().map(ToString::to_string).collect(),
    });
    let Header { created_at, cluster, version, index, counts, nodes, .. } = &backup.header;
    json::Snapshot {
        format: backup.format,
        version: version.clone(),
        cluster: cluster.clone(),
        created_at_ms: created_at.as_millis(),
        index: *index,
        nodes: *nodes,
        apps: counts.apps,
        functions: counts.functions,
        revisions: counts.revisions,
        images: images.collect(),
    }
}
