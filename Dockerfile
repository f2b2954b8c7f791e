# The service and nothing else: no build tools, no package manager of Python's, nothing it needs to write to.
# `make image` builds it. deploy/image/build-tree.sh does the work, so that it can be tried without Docker.

FROM python:3.13-slim-trixie AS build
RUN pip install --no-cache-dir uv==0.13.9
# The compiler of argon2's faster build. Its version is Debian's: what it compiles has its own, by hash.
# hadolint ignore=DL3008
RUN [ "$(uname -m)" != x86_64 ] || { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
  && rm -rf /var/lib/apt/lists/*; }
WORKDIR /src
COPY . .
ARG COMMIT=unknown
RUN --mount=type=cache,target=/root/.cache/uv ARGON2_V3=yes deploy/image/build-tree.sh /opt/gatelodge

FROM python:3.13-slim-trixie
# pip is of no use here but to an intruder.
RUN PYTHONDONTWRITEBYTECODE=1 pip uninstall --yes --root-user-action=ignore pip && rm -r /usr/local/lib/python3.13/ensurepip
# The base image has Python's own library uncompiled, and nothing may be written when it runs: it would be compiled at
# every start.
RUN PYTHONOPTIMIZE=2 PYTHONNODEBUGRANGES=1 python -m compileall -q /usr/local/lib/python3.13
COPY --from=build /opt/gatelodge /opt/gatelodge
ENV APP_ENV=production \
    PATH=/opt/gatelodge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 CMD ["gatelodge", "health"]
ENTRYPOINT ["gatelodge"]
CMD ["serve"]
