# The image that every node of a cluster runs: exact versions with hashes, then the code.
# docker build -t patchcert .
FROM python:3.11-slim-bookworm

# KubeRay's probes fetch the health of a node with wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 ray
WORKDIR /home/ray/patchcert

COPY requirements.txt .
RUN pip install --no-cache-dir --no-compile --no-deps --require-hashes -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY pipeline pipeline
COPY jobs jobs
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER ray
ENV RAY_AUTH_MODE=token
ENTRYPOINT []
CMD ["patchcert", "--help"]
