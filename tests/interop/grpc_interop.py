#!/usr/bin/env python3
"""gRPC's interoperability cases (grpc/doc/interop-test-descriptions.md) with grpcio at both ends.

`grpc_interop.py serve` prints the port it listens on; `grpc_interop.py run PORT` prints how each case came out.
"""

import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
KINDS = {"int32": FIELD.TYPE_INT32, "bytes": FIELD.TYPE_BYTES, "string": FIELD.TYPE_STRING}
# grpc/testing/messages.proto, as far as these cases need it.
MESSAGES = {
    "Empty": [],
    "Payload": [(1, "type", "int32"), (2, "body", "bytes")],
    "EchoStatus": [(1, "code", "int32"), (2, "message", "string")],
    "SimpleRequest": [(2, "response_size", "int32"), (3, "payload", "Payload"), (7, "response_status", "EchoStatus")],
    "SimpleResponse": [(1, "payload", "Payload")],
    "StreamingInputCallRequest": [(1, "payload", "Payload")],
    "StreamingInputCallResponse": [(1, "aggregated_payload_size", "int32")],
    "ResponseParameters": [(1, "size", "int32"), (2, "interval_us", "int32")],
    "StreamingOutputCallRequest": [(2, "response_parameters", "ResponseParameters*"), (3, "payload", "Payload"), (7, "response_status", "EchoStatus")],
    "StreamingOutputCallResponse": [(1, "payload", "Payload")],
}


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="grpc.testing", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            repeated = kind.endswith("*")
            kind = kind.rstrip("*")
            out = message.field.add(name=field, number=number, label=FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL)
            if kind in KINDS:
                out.type = KINDS[kind]
            else:
                out.type, out.type_name = FIELD.TYPE_MESSAGE, f".grpc.testing.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.testing.{name}")) for name in MESSAGES}
    return type("M", (), made)


M = messages()
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def payload(size):
    return M.Payload(body=bytes(size))


# --- the server

def echo_metadata(context):
    for key, value in context.invocation_metadata():
        if key == INITIAL:
            context.send_initial_metadata(((key, value),))
        elif key == TRAILING:
            context.set_trailing_metadata(((key, value),))


def fail_if_asked(request, context):
    status = request.response_status
    if status.code:
        codes = {code.value[0]: code for code in grpc.StatusCode}
        context.abort(codes[status.code], status.message)


def unary_call(request, context):
    echo_metadata(context)
    fail_if_asked(request, context)
    return M.SimpleResponse(payload=payload(request.response_size))


def streaming_input(requests, context):
    return M.StreamingInputCallResponse(aggregated_payload_size=sum(len(request.payload.body) for request in requests))


def outputs(request, context):
    fail_if_asked(request, context)
    for parameters in request.response_parameters:
        time.sleep(parameters.interval_us / 1e6)
        yield M.StreamingOutputCallResponse(payload=payload(parameters.size))


def full_duplex(requests, context):
    echo_metadata(context)
    for request in requests:
        yield from outputs(request, context)


METHODS = {
    "EmptyCall": ("unary_unary", lambda request, context: M.Empty(), M.Empty, M.Empty),
    "UnaryCall": ("unary_unary", unary_call, M.SimpleRequest, M.SimpleResponse),
    "StreamingInputCall": ("stream_unary", streaming_input, M.StreamingInputCallRequest, M.StreamingInputCallResponse),
    "StreamingOutputCall": ("unary_stream", outputs, M.StreamingOutputCallRequest, M.StreamingOutputCallResponse),
    "FullDuplexCall": ("stream_stream", full_duplex, M.StreamingOutputCallRequest, M.StreamingOutputCallResponse),
}


def serve():
    handlers = {}
    for name, (kind, behaviour, request, response) in METHODS.items():
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        handlers[name] = make(behaviour, request_deserializer=request.FromString, response_serializer=response.SerializeToString)
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.testing.TestService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()  # Until whoever started it is gone.


# --- the client

class Stub:
    def __init__(self, channel):
        for name, (kind, _, request, response) in METHODS.items():
            make = getattr(channel, kind)
            call = make(f"/grpc.testing.TestService/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString)
            setattr(self, name, call)
        empty = {"request_serializer": M.Empty.SerializeToString, "response_deserializer": M.Empty.FromString}
        self.UnimplementedCall = channel.unary_unary("/grpc.testing.TestService/UnimplementedCall", **empty)
        self.UnimplementedService = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall", **empty)


def expect(have, want):
    assert have == want, f"{have!r}, not {want!r}"


def fails(call, code, details=None):
    try:
        call()
    except grpc.RpcError as error:
        expect(error.code(), code)
        if details is not None:
            expect(error.details(), details)
        return
    raise AssertionError(f"succeeded instead of {code}")


class Requests:
    """A stream of requests that the test feeds."""

    def __init__(self):
        self.items, self.ready, self.closed = [], threading.Condition(), False

    def send(self, item):
        with self.ready:
            self.items.append(item)
            self.ready.notify()

    def close(self):
        with self.ready:
            self.closed = True
            self.ready.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.ready:
            self.ready.wait_for(lambda: self.items or self.closed)
            if self.items:
                return self.items.pop(0)
            raise StopIteration


def asking(size, body=0, interval=0):
    parameters = [M.ResponseParameters(size=size, interval_us=interval)]
    return M.StreamingOutputCallRequest(response_parameters=parameters, payload=payload(body))


def empty_unary(stub):
    expect(stub.EmptyCall(M.Empty()), M.Empty())


def large_unary(stub):
    response = stub.UnaryCall(M.SimpleRequest(response_size=314159, payload=payload(271828)))
    expect(response.payload.body, bytes(314159))


def client_streaming(stub):
    requests = (M.StreamingInputCallRequest(payload=payload(size)) for size in (27182, 8, 1828, 45904))
    expect(stub.StreamingInputCall(requests).aggregated_payload_size, 74922)


def server_streaming(stub):
    sizes = [31415, 9, 2653, 58979]
    request = M.StreamingOutputCallRequest(response_parameters=[M.ResponseParameters(size=size) for size in sizes])
    expect([len(response.payload.body) for response in stub.StreamingOutputCall(request)], sizes)


def ping_pong(stub):
    requests = Requests()
    responses = stub.FullDuplexCall(requests)
    for size, body in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)):
        requests.send(asking(size, body))
        expect(len(next(responses).payload.body), size)
    requests.close()
    expect(list(responses), [])
    expect(responses.code(), grpc.StatusCode.OK)


def empty_stream(stub):
    expect(list(stub.FullDuplexCall(iter(()))), [])


def cancel_after_begin(stub):
    requests = Requests()
    call = stub.StreamingInputCall.future(requests)
    call.cancel()
    expect(call.cancelled(), True)
    expect(call.code(), grpc.StatusCode.CANCELLED)
    requests.close()


def cancel_after_first_response(stub):
    requests = Requests()
    responses = stub.FullDuplexCall(requests)
    requests.send(asking(31415, 27182))
    expect(len(next(responses).payload.body), 31415)
    responses.cancel()
    fails(lambda: next(responses), grpc.StatusCode.CANCELLED)
    requests.close()


def timeout_on_sleeping_server(stub):
    requests = Requests()
    responses = stub.FullDuplexCall(requests, timeout=0.05)
    requests.send(asking(31415, 27182, interval=1_000_000))
    fails(lambda: next(responses), grpc.StatusCode.DEADLINE_EXCEEDED)
    requests.close()


def custom_metadata(stub):
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
    request = M.SimpleRequest(response_size=314159, payload=payload(271828))
    _, call = stub.UnaryCall.with_call(request, metadata=metadata)
    check_metadata(call, metadata)
    requests = Requests()
    responses = stub.FullDuplexCall(requests, metadata=metadata)
    requests.send(asking(314159, 271828))
    next(responses)
    requests.close()
    expect(list(responses), [])
    check_metadata(responses, metadata)


def check_metadata(call, metadata):
    expect(dict(call.initial_metadata()).get(INITIAL), metadata[0][1])
    expect(dict(call.trailing_metadata()).get(TRAILING), metadata[1][1])


def status_code_and_message(stub, message="test status message"):
    status = M.EchoStatus(code=2, message=message)
    fails(lambda: stub.UnaryCall(M.SimpleRequest(response_status=status)), grpc.StatusCode.UNKNOWN, message)
    requests = iter((M.StreamingOutputCallRequest(response_status=status),))
    fails(lambda: next(stub.FullDuplexCall(requests)), grpc.StatusCode.UNKNOWN, message)


def special_status_message(stub):
    message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
    status = M.EchoStatus(code=2, message=message)
    fails(lambda: stub.UnaryCall(M.SimpleRequest(response_status=status)), grpc.StatusCode.UNKNOWN, message)


def unimplemented_method(stub):
    fails(lambda: stub.UnimplementedCall(M.Empty()), grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(stub):
    fails(lambda: stub.UnimplementedService(M.Empty()), grpc.StatusCode.UNIMPLEMENTED)


def many_at_once(stub):
    calls = [stub.UnaryCall.future(M.SimpleRequest(response_size=1000 + n, payload=payload(n * 97))) for n in range(200)]
    expect([len(call.result(20).payload.body) for call in calls], [1000 + n for n in range(200)])


CASES = [empty_unary, large_unary, client_streaming, server_streaming, ping_pong, empty_stream, cancel_after_begin,
         cancel_after_first_response, timeout_on_sleeping_server, custom_metadata, status_code_and_message,
         special_status_message, unimplemented_method, unimplemented_service, many_at_once]


def run(port):
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    failed = 0
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stub = Stub(channel)
        for case in CASES:
            try:
                case(stub)
                print(f"{case.__name__}: ok", flush=True)
            except Exception as error:  # Whatever it is, the case has failed.
                failed += 1
                print(f"{case.__name__}: {type(error).__name__} {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else run(int(sys.argv[2]))
