//! The manifest's JSON Schema, for editors and for `hearth schema`.
//!
//! It is written by hand, because what it says is what people read; a test holds its keys against those of the parser.

use serde_json::{Value, json};

use control_plane::model::{CONCURRENCY_MAX, INSTANCES_MAX, LABEL_LENGTH_MAX, NAME_LENGTH_MAX, REQUIRED_MAX};

/// Returns the JSON Schema (draft 2020-12) of a manifest.
pub fn schema() -> Value {
    let name = json!("^[a-z]([a-z0-9-]*[a-z0-9])?$");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hearth.toml",
        "description": "What one Hearth app consists of.",
        "type": "object",
        "additionalProperties": false,
        "required": ["app", "function"],
        "properties": {
            "app": { "type": "string", "pattern": name, "maxLength": NAME_LENGTH_MAX, "description": "The app's name." },
            "function": {
                "description": "Its functions by name; each name is unique in the cluster.",
                "type": "object",
                "minProperties": 1,
                "maxProperties": super::FUNCTIONS_MAX,
                "propertyNames": { "pattern": name, "maxLength": NAME_LENGTH_MAX },
                "additionalProperties": { "$ref": "#/$defs/function" }
            }
        },
        "$defs": { "function": function(), "placement": placement(), "scale": scale(), "trigger": trigger() }
    })
}

fn function() -> Value {
    let size = json!("^[0-9]+(Ki|Mi|Gi)?$");
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["runtime"],
        "properties": {
            "runtime": {
                "enum": ["python3", "nodejs", "provided", "http", "image"],
                "description": "The contract between an instance and its node."
            },
            "source": { "type": "string", "description": "The code: a folder or file, from the manifest's folder." },
            "handler": {
                "type": "string", "pattern": "^\\S+\\.[^\\s/.]+$",
                "description": "module.function, for python3 and nodejs."
            },
            "command": {
                "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1,
                "description": "The argument vector, for http, provided and image."
            },
            "base": {
                "type": "string",
                "description": "What lies under the code: an image reference, an OCI layout, or a captured base."
            },
            "dependencies": { "type": "string", "description": "The file inside the source that lists dependencies." },
            "memory": { "type": "string", "pattern": size, "default": "256Mi", "description": "Memory of an instance." },
            "cpu": {
                "anyOf": [{ "type": "string", "pattern": "^[0-9]+m?$" }, { "type": "integer", "minimum": 1 }],
                "default": "500m", "description": "Processor time: thousandths of a core, or cores."
            },
            "disk": { "type": "string", "pattern": size, "default": "512Mi", "description": "Size of /tmp." },
            "pids": { "type": "integer", "minimum": 4, "maximum": 32768, "default": 1024, "description": "Tasks." },
            "timeout": { "$ref": "#/$defs/function/$defs/period", "default": "30s", "description": "Of one call." },
            "concurrency": {
                "type": "integer", "minimum": 1, "maximum": CONCURRENCY_MAX, "default": 1,
                "description": "Calls one instance serves at once."
            },
            "env": {
                "type": "object", "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": { "type": "string" }, "description": "Environment variables."
            },
            "network": {
                "enum": ["none", "egress"], "default": "none",
                "description": "What the sandbox may reach: only its own loopback, or what lies beyond its node."
            },
            "user": {
                "type": "integer", "minimum": 0, "maximum": 65534,
                "description": "The user id inside the sandbox; 1000 unless an image names its own."
            },
            "scale": { "$ref": "#/$defs/scale" },
            "placement": { "$ref": "#/$defs/placement" },
            "trigger": {
                "type": "array", "maxItems": super::trigger::TRIGGERS_MAX, "items": { "$ref": "#/$defs/trigger" },
                "description": "What invokes it beside its name."
            }
        },
        "$defs": { "period": { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" } }
    })
}

fn scale() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "min": {
                "type": "integer", "minimum": 0, "maximum": INSTANCES_MAX, "default": 0,
                "description": "Instances that are always kept."
            },
            "max": {
                "type": "integer", "minimum": 1, "maximum": INSTANCES_MAX, "default": 20,
                "description": "The most instances."
            },
            "max-idle": {
                "$ref": "#/$defs/function/$defs/period", "default": "1h",
                "description": "The longest an idle instance stays."
            }
        }
    })
}

fn placement() -> Value {
    let label = json!({ "type": "string", "maxLength": LABEL_LENGTH_MAX });
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "spread": {
                "enum": ["none", "zone"], "default": "none",
                "description": "What instances are spread over; with scale.min of 2 or more no zone has two above another."
            },
            "require": {
                "type": "object", "maxProperties": REQUIRED_MAX,
                "propertyNames": { "minLength": 1, "maxLength": LABEL_LENGTH_MAX }, "additionalProperties": label,
                "description": "Labels that a node must have, with these values."
            }
        }
    })
}

fn trigger() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["type", "path"],
        "properties": {
            "type": { "const": "http" },
            "host": { "type": "string", "description": "Lower case, without port; every host if left out." },
            "path": { "type": "string", "pattern": "^/", "description": "A final /* takes all below it too." },
            "methods": {
                "type": "array", "minItems": 1,
                "items": { "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] },
                "description": "Every method if left out."
            }
        }
    })
}
