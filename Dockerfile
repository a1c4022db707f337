# minbert-bench with torch's CPU build. Results go to the current folder, and what is downloaded to a
# volume:
#   docker build -t minbert-bench .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v minbert-cache:/home/bench/.cache \
#     minbert-bench run --grid smoke
FROM python:3.13-slim-trixie AS build
RUN python -m venv /venv && \
    /venv/bin/pip install --no-cache-dir "torch>=2.10,<3" --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN /venv/bin/pip install --no-cache-dir "/src[transformers,sentence-transformers,onnx,hub,data]"

FROM python:3.13-slim-trixie
RUN useradd --uid 1000 --create-home bench && \
    install --directory --owner=bench /work && \
    install --directory --mode=1777 /home/bench /home/bench/.cache
COPY --from=build /venv /venv
# the user's name is asked for where --user gives a number that has none
ENV PATH=/venv/bin:$PATH HOME=/home/bench USER=bench
USER 1000
WORKDIR /work
ENTRYPOINT ["minbert-bench"]
CMD ["--help"]
