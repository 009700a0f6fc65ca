//! Layers put together into an image.

use std::fs;
use std::io;
use std::path::Path;

use control_plane::model::{Digest, Runtime};

use super::super::Store;
use super::super::layer::{Content, Layer};
use super::super::oci::{self, Config, Descriptor, Execution, Manifest, RootFs};
use super::dependencies::{Dependencies, Language};
use super::{BuildError, BuildRequest, Built, TASK_ROOT, python};

const PYTHON_BOOTSTRAP: &str = include_str!("../../../languages/python3/bootstrap.py");
const NODEJS_BOOTSTRAP: &str = include_str!("../../../languages/nodejs/bootstrap.mjs");

impl Store {
    /// Puts the layers together.
    pub(super) fn assemble(
        &self,
        request: &BuildRequest,
        base: Option<Digest>,
        dependencies: Option<Dependencies>,
        code: Digest,
    ) -> Result<Built, BuildError> {
        let mut layers = Vec::new();
        let mut execution = Execution::default();
        if let Some(base) = base {
            let (manifest, config) = self.image(&base)?;
            // As they came: compressed or not, a layer is stored and unpacked once.
            layers = manifest.layers.into_iter().zip(config.rootfs.diff_ids).collect();
            execution = config.config;
        }
        let bootstrap = match request.runtime {
            Runtime::Python3 => Some(("bootstrap.py", PYTHON_BOOTSTRAP, Language::Python)),
            Runtime::Nodejs => Some(("bootstrap.mjs", NODEJS_BOOTSTRAP, Language::Nodejs)),
            Runtime::Provided | Runtime::Http | Runtime::Image => None,
        };
        if let Some((name, text, language)) = bootstrap {
            let mut layer = Layer::default();
            layer.add(Path::new("opt/hearth").join(name), Content::Bytes(text.as_bytes().to_vec()), false);
            layers.push(self.own(self.put_layer(&layer)?.0)?);
            let interpreter = match base {
                Some(base) => self.interpreter(&base, language)?,
                None => "python3".to_owned(),
            };
            execution.entrypoint = Some(vec![interpreter, format!("/opt/hearth/{name}")]);
            execution.cmd = None;
        } else if !request.command.is_empty() || request.runtime == Runtime::Provided {
            let command =
                if request.command.is_empty() { vec!["./bootstrap".to_owned()] } else { request.command.clone() };
            execution.entrypoint = Some(command);
            execution.cmd = None;
        }
        if let Some(dependencies) = dependencies {
            layers.push(self.own(dependencies.layer)?);
            if dependencies.language == Language::Python {
                execution.env.get_or_insert_default().push(format!("PYTHONPATH=/{}", python::PACKAGES));
            }
        }
        layers.push(self.own(code)?);
        execution.working_dir = Some(format!("/{TASK_ROOT}"));
        let manifest_before = self.image_count()?;
        let image = self.put_image(layers, execution)?;
        let reused = self.image_count()? == manifest_before;
        Ok(Built { image, reused, size_bytes: self.size(&image)? })
    }

    /// Describes a layer that this store made: it is not compressed, so that both its digests are one.
    pub(super) fn own(&self, layer: Digest) -> io::Result<(Descriptor, String)> {
        let size = fs::metadata(self.blobs().path(&layer))?.len();
        Ok((Descriptor::new(oci::LAYER, &layer, size), layer.to_string()))
    }

    /// Keeps an image of layers that are in the store, each with the digest of what it holds decompressed.
    pub(super) fn put_image(&self, layers: Vec<(Descriptor, String)>, execution: Execution) -> io::Result<Digest> {
        let (layers, diff_ids) = layers.into_iter().unzip();
        let config = Config {
            architecture: oci::architecture().to_owned(),
            os: "linux".to_owned(),
            config: execution,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        };
        let config = serde_json::to_vec(&config)?;
        let config_digest = self.blobs().put(&config)?;
        let size = u64::try_from(config.len()).map_err(io::Error::other)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST.to_owned()),
            config: Descriptor::new(oci::CONFIG, &config_digest, size),
            layers,
        };
        let image = self.blobs().put(&serde_json::to_vec(&manifest)?)?;
        self.list_image(image)?;
        Ok(image)
    }

    pub(super) fn put_layer(&self, layer: &Layer) -> io::Result<(Digest, u64)> {
        let mut blob = self.blobs().create()?;
        let mut buffered = io::BufWriter::new(&mut blob);
        layer.write(&mut buffered)?;
        drop(buffered);
        blob.finish()
    }
}
