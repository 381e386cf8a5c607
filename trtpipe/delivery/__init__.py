"""From a verified build to the machine that runs it: the package, what it can be turned into, and what it proves.

A package is a folder (or one ``.tar``) whose index is ``model.json``. These modules need neither pydantic nor onnx,
because the runtime reads packages with them:

- ``schema``: frozen dataclasses from JSON and back, strictly.
- ``record``: what ``model.json`` holds.
- ``reader``: the files of a package, their digests checked before anybody reads them.
- ``signing``: signs the files that ``assembly.Assembly`` lists, after ``model.json`` is among them; and checks a
  signature against a ``policy`` for the runtime and ``package verify``. ``keys`` (with ``tokens``) and ``envelope`` are
  its two halves: what signs, and what is written.
- ``policy``: whom to trust, and what to ask of a package.
- ``encryption``: replaces engines, graph and reference in an ``Assembly`` before ``model.json`` is written
  (``record.Encryption``), and decrypts in memory what ``reader.Package.read`` returns.

These make packages, and other things from packages:

- ``assembly``: files and record of a package, from a build.
- ``joining``: several packages in one.
- ``samples``: reference inputs, and the outputs of the lowered graph for them.
- ``triton``: a Triton model repository from an ``Assembly``; ``triton_config``: what ``config.pbtxt`` says, and what
  a server would refuse; ``triton_existing``: what would no longer fit in a repository;
  ``triton_preprocess``: a model of its Python back-end, written out as it stands.
- ``handover``: a package for a machine that builds for itself, and what that gives back; ``finish``: the sources of its
  ``finish.py``, which import nothing of trtpipe once they are joined.
- ``attestation``: SLSA provenance in a DSSE envelope, from the build's ``provenance.json`` and the record.
- ``bill_of_materials``: the ML-BOM. ``statements``: both, on their way through a hand-over.

``api/packages.py`` makes an ``Assembly`` and publishes it; each of the above is one call between the two.
``api/package_trust.py`` verifies one, and stays with the modules that the runtime reads packages with.
"""
