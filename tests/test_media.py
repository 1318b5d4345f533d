"""datasets/media.py: the values are those of librosa, Pillow, torchvision and PyAV; damaged files are refused."""

import io
import shutil
import warnings

import av
import cv2
import librosa
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageFile
from torchvision.transforms import v2

from igm.datasets import files, media, synthetic
from igm.datasets.media import Unreadable


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def speech(rng, seconds, rate):
    """A buzz of harmonics, gliding, in a little noise."""
    t = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * k * (150 * t + 20 * t**2)) / k for k in range(1, 9))
    return (0.1 * tone + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


def photograph(rng, height, width):
    """Smooth colours with edges and grain."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (17 + i)) * np.cos(y / (23 + i)) * 90 + 128 for i in range(3)]
    image = np.stack(planes, -1) + rng.normal(0, 4, (height, width, 3))
    image[height // 3 :, : width // 4] = 255 - image[height // 3 :, : width // 4]
    return np.clip(image, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- sound


@pytest.mark.parametrize(("rate", "seconds", "columns"), [(22050, 3, 188), (35400, 10, 1003)])
@pytest.mark.parametrize("native", [16000, 44100])
def test_spectrograms_are_those_of_librosa(tmp_path, rng, rate, seconds, columns, native):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(rng, 2.3, native), native, subtype="PCM_16")
    samples, _ = librosa.load(path, sr=rate)
    long = np.clip(np.concatenate([samples] * 5)[: rate * seconds], -1, 1)
    expected = np.log(np.abs(librosa.stft(long, n_fft=512, hop_length=353)) + 1e-7)
    ours = media.log_spectrogram(media.fit_length(media.read_audio(path, rate), rate * seconds))
    assert ours.shape == expected.shape == (257, columns)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 1e-4


def test_one_stft_bin_by_hand(rng):
    samples = rng.standard_normal(2000).astype(np.float32)
    n, k, frame = np.arange(512), 37, 3
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
    piece = samples[frame * 353 - 256 : frame * 353 + 256]
    expected = np.log(abs(np.sum(window * piece * np.exp(-2j * np.pi * k * n / 512))) + 1e-7)
    assert media.log_spectrogram(samples)[k, frame] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("native", [8000, 22050, 48000])
def test_any_rate_and_number_of_channels_becomes_one_channel(tmp_path, rng, channels, native):
    sound = np.stack([speech(rng, 0.5, native) * (i + 1) / channels for i in range(channels)], 1)
    soundfile.write(tmp_path / "a.wav", sound, native, subtype="FLOAT")
    expected, _ = librosa.load(tmp_path / "a.wav", sr=22050)
    ours = media.read_audio(tmp_path / "a.wav", 22050)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 1e-5


def test_short_sounds_repeat_and_loud_ones_are_clipped():
    fitted = media.fit_length(np.array([0.5, -3, 2], np.float32), 8)
    assert fitted.tolist() == [0.5, -1, 1, 0.5, -1, 1, 0.5, -1]
    assert media.fit_length(np.arange(10) / 10, 3).tolist() == [0, 0.1, 0.2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer.*lfs pull"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a sound file"),
        (b"<html>404</html>", "not a sound file"),
    ],
)
def test_what_is_no_sound_is_refused(tmp_path, content, reason):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(Unreadable, match=rf"a\.wav.*{reason}"):
        media.read_audio(tmp_path / "a.wav", 22050)


def test_a_sound_without_samples_or_with_nan_is_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(9, np.nan, np.float32), 16000, subtype="FLOAT")
    with pytest.raises(Unreadable, match="no samples"):
        media.read_audio(tmp_path / "empty.wav", 22050)
    with pytest.raises(Unreadable, match="not finite"):
        media.read_audio(tmp_path / "nan.wav", 22050)


SOUNDS = ["WAV PCM_16", "WAV FLOAT", "WAVEX PCM_24", "AIFF PCM_16", "AU PCM_16", "FLAC PCM_16"]
SOUNDS += ["MP3 MPEG_LAYER_III"]


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("left", [0.5, 0.9])
def test_a_sound_that_was_cut_off_is_refused(tmp_path, rng, kind, left):
    form, subtype = kind.split()
    sound, path = speech(rng, 4, 16000), tmp_path / "a.wav"
    soundfile.write(path, sound, 16000, format=form, subtype=subtype)
    assert len(media.read_audio(path, 16000)) == len(sound)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(Unreadable, match=r"a\.wav is (cut off: its header promises|not a sound)"):
        media.read_audio(path, 16000)


def test_what_the_header_of_a_sound_promises_is_said(tmp_path, rng):
    soundfile.write(tmp_path / "a.wav", speech(rng, 2.5, 16000), 16000, subtype="PCM_16")
    content = (tmp_path / "a.wav").read_bytes()
    assert len(content) == 80044
    (tmp_path / "a.wav").write_bytes(content[:2000])
    with pytest.raises(Unreadable, match=r"promises 80,036 bytes, 1,992 are there"):
        media.read_audio(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("size", [80000 + 44, 0xFFFFFFFF, 0x7FFFFFFF, 40000])
def test_a_header_that_counts_itself_in_or_does_not_know_its_length_is_fine(tmp_path, rng, size):
    """FFmpeg writes 0xFFFFFFFF into a pipe; and what lies behind the sound is no sound."""
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(rng, 2.5, 16000), 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(media.read_audio(path, 16000)) == (20000 if size == 40000 else 40000)


# ---------------------------------------------------------------- pictures


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def test_pixels_are_those_of_pillow(tmp_path, rng):
    path = saved(tmp_path / "a.jpg", photograph(rng, 90, 130), quality=80)
    assert np.array_equal(media.read_image(path), np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_kinds_of_pictures_become_rgb(tmp_path, rng, mode):
    image = Image.fromarray(photograph(rng, 40, 60)).convert(mode)
    path = tmp_path / "a.jpg"
    image.save(path, format="JPEG" if mode in ("L", "CMYK") else "PNG")
    ours, pillow = media.read_image(path), np.array(Image.open(path).convert("RGB"))
    assert ours.shape == (40, 60, 3)
    assert np.abs(ours.astype(int) - pillow).max() <= (mode == "CMYK")  # OpenCV rounds otherwise


def test_transparency_is_dropped_as_the_authors_code_does(tmp_path, rng):
    image = photograph(rng, 40, 60)
    alpha = np.concatenate([image, np.zeros((40, 60, 1), np.uint8)], 2)
    assert np.array_equal(media.read_image(saved(tmp_path / "a.png", alpha)), image)
    palette = Image.fromarray(image).quantize(16)
    palette.save(tmp_path / "b.png", transparency=3)
    colours = np.array(palette.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(media.read_image(tmp_path / "b.png"), colours)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_turn_in_the_exif_data_is_not_made(tmp_path, rng, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / f"a.{suffix}", photograph(rng, 40, 60), exif=exif)
    assert media.read_image(path).shape == (40, 60, 3)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_of_grey_become_8(tmp_path, suffix):
    """White stays white, and a ramp a ramp: 65535 = 257 x 255."""
    grey = np.linspace(0, 65535, 40 * 60).round().astype(np.uint16).reshape(40, 60)
    image = media.read_image(saved(tmp_path / f"a.{suffix}", grey))
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    assert np.array_equal(image, np.repeat(np.rint(grey / 257).astype(np.uint8)[..., None], 3, 2))
    same = saved(tmp_path / "b.png", np.arange(256, dtype=np.uint16)[None] * 257)
    assert media.read_image(same)[0, :, 0].tolist() == list(range(256))


def test_16_bits_of_colour_become_8(tmp_path):
    ramp = np.linspace(0, 65535, 40 * 60).round().astype(np.uint16).reshape(40, 60)
    deep = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], -1)  # blue first, as OpenCV writes
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    image = media.read_image(tmp_path / "a.png")
    assert np.abs(image[..., ::-1].astype(int) - np.rint(deep / 257)).max() <= 1


@pytest.mark.parametrize("values", [np.float32([[0, 0.5], [1, 2]]), np.int32([[0, 1], [70000, 2]])])
def test_32_bits_are_refused(tmp_path, values):
    with pytest.raises(Unreadable, match=r"a\.tiff has pixels of 32 bits: save it with 8 or 16"):
        media.read_image(saved(tmp_path / "a.tiff", values))


@pytest.mark.parametrize("left", [0.02, 0.5, 0.99])
def test_a_jpeg_that_was_cut_off_is_refused(tmp_path, rng, left):
    content = media.jpeg(photograph(rng, 90, 130))
    (tmp_path / "a.jpg").write_bytes(content[: int(left * len(content))])
    with pytest.raises(Unreadable, match=r"a\.jpg is (a damaged|not a) picture"):
        media.read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("left", [0.5, 0.95])
def test_a_switch_of_pillow_lets_no_cut_picture_through(tmp_path, rng, monkeypatch, kind, left):
    """The authors' code sets it; then Pillow fills up what is lost with grey."""
    path = saved(tmp_path / "a.jpg", photograph(rng, 90, 130), format=kind)
    whole = media.read_image(path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.array_equal(media.read_image(path), whole)
    content = path.read_bytes()
    path.write_bytes(content + b"what a camera adds")
    assert np.array_equal(media.read_image(path), whole)
    path.write_bytes(content[: int(left * len(content))])
    assert Image.open(path).convert("RGB").size == (130, 90)
    with pytest.raises(Unreadable, match=r"a\.jpg is a damaged picture"):
        media.read_image(path)


def test_evaluation_pixels_are_those_of_torchvision(rng):
    image = photograph(rng, 360, 480)
    chain = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((224, 224)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    ours = media.normalise(media.resize(torch.from_numpy(image).permute(2, 0, 1), 224))
    assert (ours - chain(image)).abs().max() < 1e-4


def test_a_crop_is_that_of_torchvision_at_its_box(rng, monkeypatch):
    image = torch.from_numpy(photograph(rng, 120, 160)).permute(2, 0, 1)
    monkeypatch.setattr(media, "crop_box", lambda h, w, rng: (10, 20, 70, 90))
    theirs = v2.functional.resized_crop(image, 10, 20, 70, 90, [64, 64], antialias=True)
    crops = [media.random_crop(image, 64, np.random.default_rng(s)) for s in range(8)]
    flipped = [torch.equal(crop, theirs.flip(-1)) for crop in crops]
    assert [torch.equal(crop, theirs) for crop in crops] == [not f for f in flipped]
    assert 0 < sum(flipped) < 8


def test_boxes_are_distributed_as_those_of_torchvision():
    ours = [media.crop_box(90, 160, np.random.default_rng(seed)) for seed in range(2000)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crop = v2.RandomResizedCrop(8)
        picture = torch.empty(3, 90, 160)
        drawn = [crop.make_params([picture]) for _ in range(2000)]
    theirs = [(d["top"], d["left"], d["height"], d["width"]) for d in drawn]
    for ours_i, theirs_i in zip(np.transpose(ours), np.transpose(theirs)):
        assert (
            np.abs(
                np.quantile(ours_i, [0.1, 0.5, 0.9]) - np.quantile(theirs_i, [0.1, 0.5, 0.9])
            ).max()
            < 6
        )
    for top, left, height, width in ours:
        assert 0 <= top <= 90 - height and 0 <= left <= 160 - width and height and width


def test_a_narrow_picture_gets_the_largest_box_in_its_middle():
    assert media.crop_box(10, 1000, np.random.default_rng(0)) == (0, 493, 10, 13)


# ---------------------------------------------------------------- videos


def clip(path, frames=25, fps=10, sound=None):
    pictures = [np.full((48, 64, 3), 9 * i, np.uint8) for i in range(frames)]
    synthetic.write_video(path, pictures, fps, sound, 16000)
    return path


@pytest.mark.parametrize("suffix", ["flv", "mp4", "avi"])
def test_frames_are_read_in_order_and_one_a_second_kept(tmp_path, suffix):
    path = clip(tmp_path / f"a.{suffix}")
    frames = list(media.video_frames(path))
    assert [round(time, 3) for time, _ in frames] == [i / 10 for i in range(25)]
    grey = [frame.mean() for _, frame in frames]
    assert np.allclose(grey, [9 * i for i in range(25)], atol=6)
    kept = media.every_second(iter(frames))
    assert np.allclose([frame.mean() for frame in kept], [0, 90, 180], atol=6)


def test_red_stays_red(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    synthetic.write_video(tmp_path / "a.mp4", [red] * 5, 5)
    _, frame = next(media.video_frames(tmp_path / "a.mp4"))
    assert frame[..., 0].mean() > 170 and frame[..., 2].mean() < 40


def encoded(path, frames=50, fps=10, codec="libx264", sound=0.0, **options):
    """A video of growing brightness in any format, with so many seconds of sound."""
    keys = {"g": "10"} if codec == "libx264" else {"preset": "10"} if "av1" in codec else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream(codec, rate=fps, options=keys)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        if sound:
            audio = container.add_stream("aac", rate=16000, layout="mono")
            wave = speech(np.random.default_rng(0), sound, 16000)[None]
            part = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            part.sample_rate, part.pts = 16000, 0
        grain = np.random.default_rng(0).integers(0, 60, (64, 64, 3))
        for i in range(frames):
            picture = np.uint8(np.roll(grain, i, 0) + 190 * i // frames)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode(None))
        if sound:
            container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


needs_av1 = pytest.mark.skipif(
    "libsvtav1" not in av.codecs_available, reason="this PyAV writes no AV1"
)
VIDEOS = {
    "flv": ("a.flv", {"codec": "flv"}),
    "flv of a frame a second": ("a.flv", {"codec": "flv", "fps": 1, "frames": 8}),
    "mkv": ("a.mkv", {}),
    "mkv with sound": ("a.mkv", {"sound": 5.0}),
    "mkv, the sound ends first": ("a.mkv", {"sound": 2.0}),
    "mkv, the picture ends first": ("a.mkv", {"sound": 9.0}),
    "webm": ("a.webm", {"codec": "libvpx-vp9"}),
    "mp4, its index at the end": ("a.mp4", {"sound": 5.0}),
    "mp4, its index first": ("a.mp4", {"sound": 5.0, "movflags": "faststart"}),
    "avi": ("a.avi", {"codec": "mpeg4"}),
    "AV1 in mp4": ("a.mp4", {"codec": "libsvtav1", "movflags": "faststart"}),
    "AV1 in mkv": ("a.mkv", {"codec": "libsvtav1"}),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[needs_av1] * ("AV1" in case)) for case in VIDEOS]
)
def test_a_video_that_was_cut_off_is_refused(tmp_path, case):
    name, options = VIDEOS[case]
    path = encoded(tmp_path / name, **options)
    assert len(list(media.video_frames(path))) == options.get("frames", 50)
    content = path.read_bytes()
    for left in (0.6, 0.3, 0.1):
        path.write_bytes(content[: int(left * len(content))])
        with pytest.raises(Unreadable, match=rf"{name} (is cut off: its header|has no frame that)"):
            list(media.video_frames(path))


def test_what_the_header_of_a_video_promises_is_said(tmp_path):
    path = encoded(tmp_path / "a.flv", codec="flv")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 5])
    with pytest.raises(Unreadable, match=r"promises 5\.0 s, [01]\.\d s are there"):
        list(media.video_frames(path))


def test_a_video_most_of_which_cannot_be_decoded_is_refused(tmp_path):
    path = encoded(tmp_path / "a.mp4")
    content = path.read_bytes()
    start, end = (int(share * len(content)) for share in (0.15, 0.9))
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    with pytest.raises(Unreadable, match=r"is damaged: \d+ of its 50 frames can be read"):
        list(media.video_frames(path))


@pytest.mark.parametrize("suffix", ["flv", "mp4", "avi"])
def test_frames_are_those_of_opencv_bit_for_bit(tmp_path, suffix):
    path, found = clip(tmp_path / f"a.{suffix}"), []
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while (frame := video.read())[0]:
        found.append(frame[1][..., ::-1])
    assert np.array_equal(found, [frame for _, frame in media.video_frames(path)])
    assert np.array_equal(found[3:6], media.read_clip(path, 3, 5))


@needs_av1
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_av1_which_opencv_may_not_know_is_read(tmp_path, capfd, suffix):
    """It comes as OpenCV gives the same pictures in H.264: times, order and colours."""
    path = encoded(tmp_path / f"a.{suffix}", codec="libsvtav1")
    capfd.readouterr()
    frames = list(media.video_frames(path))
    assert capfd.readouterr().err == ""  # no line a frame
    known = list(media.video_frames(encoded(tmp_path / "b.mp4")))
    assert [time for time, _ in frames] == [time for time, _ in known]
    grey, expected = (np.array([f.mean((0, 1)) for _, f in part]) for part in (frames, known))
    assert frames[0][1].shape == (64, 64, 3) and frames[0][1].dtype == np.uint8
    assert np.abs(grey - expected).max() < 6 and grey[:, 0].argsort().tolist() == list(range(50))
    some = media.read_clip(path, 10, 19)
    assert np.array_equal(some, [frame for _, frame in frames[10:20]])
    with pytest.raises(Unreadable, match="after 50 frames, 61 are needed"):
        media.read_clip(path, 50, 60)


@pytest.mark.parametrize("content", [b"", b"FLV\x01\x05\x00\x00\x00\x09", b"no video at all" * 99])
def test_what_has_no_frames_is_refused(tmp_path, content):
    (tmp_path / "a.flv").write_bytes(content)
    with pytest.raises(Unreadable, match=r"a\.flv (is empty|has no frame)"):
        list(media.video_frames(tmp_path / "a.flv"))


def test_a_git_lfs_pointer_in_place_of_a_video_is_explained(tmp_path):
    (tmp_path / "a.flv").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(Unreadable, match="git lfs pull"):
        list(media.video_frames(tmp_path / "a.flv"))


def test_a_folder_of_frames_is_read_by_name_without_what_systems_leave_there(tmp_path, rng):
    for name in (
        "00010.jpg",
        "00002.jpg",
        "._00001.jpg",
        ".DS_Store",
        "Thumbs.db",
        "a.JPEG",
        "b.txt",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in media.pictures_in(tmp_path)] == ["00002.jpg", "00010.jpg", "a.JPEG"]
    (tmp_path / "none").mkdir()
    for folder, reason in ((tmp_path / "none", "no frames"), (tmp_path / "gone", "missing")):
        with pytest.raises(Unreadable, match=reason):
            media.pictures_in(folder)


def test_frames_are_read_as_people_count(tmp_path):
    """ffmpeg's %d writes 1.jpg ... 10.jpg; with leading zeros the order is that of the names."""
    names = ["1.jpg", "2.jpg", "9.jpg", "10.jpg", "11.jpg", "100.jpg"]
    padded = [f"frame_{i:04}.jpg" for i in (1, 2, 9, 10, 11, 100, 1000)]
    parts = ["a2b1.jpg", "a2b10.jpg", "a10b1.jpg", "b.jpg"]
    twice = ["01.jpg", "1.jpg", "002.jpg", "2.jpg"]  # always in one order
    for known in (names, padded, parts, twice):
        assert sorted(reversed(known), key=files.in_counting_order) == known
    assert sorted(reversed(padded)) == padded
    for name in reversed(names):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in media.pictures_in(tmp_path)] == names


def test_an_unreadable_file_is_the_same_error_after_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(Unreadable("x.wav", "is empty")))
    assert str(error) == "x.wav is empty" and error.path == "x.wav"


def test_the_libraries_agree_on_what_a_written_video_holds(tmp_path, rng):
    path = clip(tmp_path / "a.mp4", sound=speech(rng, 2.5, 16000))
    with av.open(str(path)) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
    again = clip(tmp_path / "b.mp4", sound=speech(np.random.default_rng(0), 2.5, 16000))
    assert path.read_bytes() == again.read_bytes()
    assert shutil.which("ffmpeg") is None or path.stat().st_size > 1000
    assert io.BytesIO(path.read_bytes()).read(8)[4:] == b"ftyp"
