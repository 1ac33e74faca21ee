# The demo in a container:  docker build -t saccade . && docker run --rm -v "$PWD/demo:/demo" saccade
FROM python:3.12-slim
COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt '/src[report,pretrained]'
CMD ["saccade", "demo", "--out", "/demo"]
