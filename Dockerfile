# Images with trtpipe, from a checkout:
#
#   docker build -t trtpipe .                                                        builds engines with TensorRT-RTX, no GPU
#   docker build -t trtpipe:cpu --build-arg EXTRAS=torch,images .                    export, calibration, lowering, accuracy
#   docker build -t trtpipe:tensorrt --build-arg EXTRAS=torch,tensorrt,gpu,images .  with TensorRT; docker run --gpus all
#
#   docker run --rm -v "$PWD:/work" trtpipe build model.onnx --int8 --calib-data photos/ --target sm89 -o build/model
FROM python:3.12-slim-bookworm

ARG EXTRAS=torch,rtx,images

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY requirements/ requirements/
COPY calib/ calib/
COPY profiles/ profiles/
COPY trtpipe/ trtpipe/
RUN pip install --require-hashes -r requirements/build.txt \
    && case ",$EXTRAS," in \
         *,torch,*) pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu ;; \
       esac \
    && pip install --no-build-isolation -c constraints.txt ".[$EXTRAS]" \
    && useradd --create-home --uid 1000 builder

USER 1000
WORKDIR /work
ENTRYPOINT ["trtpipe"]
CMD ["--help"]
