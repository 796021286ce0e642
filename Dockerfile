# The Charloom server as a small image: no torch, no compiler, no root.
#
#   docker build -t charloom .
#   docker run --rm -p 127.0.0.1:50051:50051 --read-only --cap-drop ALL charloom serve --host 0.0.0.0 --insecure
#
# Without arguments it does not start: it would listen to everybody, without TLS and without asking who calls. Its
# message says what to add.
#
# Build arguments:
#   PYTHON_IMAGE  any image with Python 3.10 or later, pip and venv
#   EXTRAS        the extras to install; torch among them makes an image with torch
#   CYCLONEDX     version of the program that writes the bill of materials
#
# Two targets: `cpu`, which is the default, and `cuda` for GPUs of NVIDIA, whose libraries come with torch:
#
#   docker build --target cuda --build-arg EXTRAS=server,http,jwt,torch -t charloom:cuda .
#   docker run --rm --gpus all -p 127.0.0.1:50051:50051 -v "$PWD/my-bundle:/bundle:ro" \
#       charloom:cuda serve /bundle --host 0.0.0.0 --insecure --device cuda
#
# A bundle for it has a TorchScript decoder, which `charloom export` writes unless told otherwise; the bundled model has none.
#
# Two optional build secrets serve networks with their own package index:
#   --secret id=pipconf,src=pip.conf   pip's settings
#   --secret id=ca,src=ca.pem          certificates to trust while downloading
# Both are mounted for one step and never become part of a layer.

ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=server,http,jwt
ARG CYCLONEDX=7.5.0
ENV PIP_CACHE_DIR=/var/cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY . .
# The environment gets no pip of its own. Its bytecode is marked as always valid,
# so that a start neither compiles nor compares times. Files that do not compile are
# told and left as they are: torch has some in the syntax of later Pythons.
RUN --mount=type=secret,id=pipconf,target=/run/secrets/pipconf,required=false \
    --mount=type=secret,id=ca,target=/run/secrets/ca,required=false \
    --mount=type=cache,target=/var/cache/pip \
    if [ -s /run/secrets/pipconf ]; then export PIP_CONFIG_FILE=/run/secrets/pipconf; fi \
    && if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python -m venv --without-pip /opt/charloom \
    && python -m pip wheel --no-deps --wheel-dir /wheel . \
    && set -- /wheel/charloom-*.whl \
    && python -m pip --python /opt/charloom/bin/python install --no-compile "$1[${EXTRAS}]" \
    && /opt/charloom/bin/python -c "import compileall, py_compile, re; \
compileall.compile_dir('/opt/charloom/lib', quiet=1, workers=0, rx=re.compile('/tests/'), \
invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
# What is in the environment, for tools that look for known faults in it.
RUN --mount=type=secret,id=pipconf,target=/run/secrets/pipconf,required=false \
    --mount=type=secret,id=ca,target=/run/secrets/ca,required=false \
    --mount=type=cache,target=/var/cache/pip \
    if [ -s /run/secrets/pipconf ]; then export PIP_CONFIG_FILE=/run/secrets/pipconf; fi \
    && if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python -m venv /opt/cyclonedx \
    && /opt/cyclonedx/bin/python -m pip install "cyclonedx-bom==${CYCLONEDX}" \
    && /opt/cyclonedx/bin/cyclonedx-py environment --output-reproducible \
        --output-file /opt/charloom/bill-of-materials.json /opt/charloom/bin/python

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="Charloom" \
      org.opencontainers.image.description="Character-level LSTMs served over gRPC as stateful streams" \
      org.opencontainers.image.licenses="Apache-2.0"
# Some base images leave out the standard library's bytecode. The root file system
# may be read-only later, so it is made here, once.
RUN python -c "import compileall, re, sysconfig; \
compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2, workers=0, \
rx=re.compile(r'/(site-packages|dist-packages|test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip)/'))"
COPY --from=build /opt/charloom /opt/charloom
# onnxruntime would send usage data to its makers; a server should not call anyone unasked.
ENV PATH=/opt/charloom/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["charloom", "health", "--any-certificate", "--target", "localhost:50051"]
ENTRYPOINT ["charloom"]
CMD ["serve", "--host", "0.0.0.0", "--port", "50051"]

FROM runtime AS cuda
# Without torch, or with a build of it for CPUs, this image would be the other one with another name.
RUN ["python", "-c", "import torch; assert torch.version.cuda, 'torch is a build for CPUs: use an index with builds for CUDA'"]
# The runtime of NVIDIA's containers reads these.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
