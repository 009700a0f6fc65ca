//! Compiles the wire with protox, so that a build host needs no protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "v1/model.proto",
        "v1/reply.proto",
        "v1/log.proto",
        "v1/raft.proto",
        "v1/cluster.proto",
        "v1/join.proto",
        "v1/peers.proto",
        "v1/images.proto",
        "v1/backup.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    // What arrives is passed on as it is.
    config.bytes([".hearth.v1.BlobChunk"]);
    #[cfg(feature = "rpc")]
    config.service_generator(tonic_prost_build::configure().service_generator());
    config.compile_fds(descriptors)?;
    Ok(())
}
