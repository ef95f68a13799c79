"""base(): the complete, commented, locked configuration tree. Every experiment file starts from it.

A key that is not here is a typo: the tree is locked, in files and on the command line alike. None means "not used";
a key that the chosen data set, loss, optimiser or schedule does not take must stay None (config.resolve checks).
"""

import json

from ml_collections import ConfigDict, config_dict


def _optional(kind, value=None):
    """A key that is None or of one type."""
    holder = config_dict.placeholder(kind)
    return holder if value is None else value


def base() -> ConfigDict:
    c = ConfigDict()
    c.name = ""  # the experiment's name; the config file's name when empty
    c.seed = 0  # of initial values, sample order, augmentation, dropout
    c.variant = ""  # set by the config file from its arguments, for the record ("quick")

    c.embedded = ()  # ((key, value), ...) that replace the above when data.root is empty: the phantom, made for a CPU

    c.data = data = ConfigDict()
    data.dataset = "ct_ich"  # module of jaxseg.data.datasets; auto: your own, in whichever layout lies under root; or
    # "my_module:load"
    data.readers = ()  # of file formats of your own: ((".suffix", "my_module:read"), ...)
    data.root = ""  # folder of the real data; empty: the data set's embedded phantom, if it has one
    data.rank = 2  # 2: slices and photographs; 3: volumes
    data.fit = "stretch"  # rank 2: stretch (to `size`), centre (`spacing`, then a canvas of `size`) or patches; rank 3: patches
    data.size = (128, 128)  # (H, W) of the network's input (of a patch), pixels; rank 3: (X, Y, Z) of a patch, voxels
    data.channels = 1  # input channels that are read (coordinates come on top); None: as many as your own images have
    data.intensity = "grey"  # grey (8-bit, through `window`), brain (z-scores per modality inside the brain), ct (-1..1), or
    # nnU-Net's and MONAI's: zscore, zscore_nonzero, zscore_own_nonzero, ct_zscore, rescale_to_01, rgb_to_01, none; auto: what
    # your own images look like. Rank 3: joined by + they are those of the channels in their order
    data.statistics = ()  # ct_zscore: (lowest, highest, mean, standard deviation) of the foreground of each channel
    data.window = (40.0, 120.0)  # CT: (level, width) in HU -> 0..255; () for 8-bit images
    data.spacing = ()  # fit centre, patches: resample to (row mm, column mm), rank 3 (x, y, z) mm; (), patches: keep the grid
    data.mean = ()  # per channel, of images in 0..1: subtracted after augmentation
    data.std = ()  # per channel: divided by after that
    data.filter = "linear"  # how images are resized: linear, lanczos, nnunet (splines, a coarse axis apart), monai, monai_last
    data.orientation = "lps"  # rank 3: of a volume's axes: lps, ras, or file (as they are stored)
    data.axes = ()  # rank 3: their order for the network, whose axes size, spacing and infer.mirror count; (): (0, 1, 2)
    data.nonzero = False  # rank 3: cut volumes to the box of their voxels that are not 0 before anything else
    data.plane = ""  # rank 2: of the slices of volumes: axial coronal sagittal; empty: axial, others are refused
    data.crop = ()  # rank 2: (rows, columns) cut out of a slice's middle before anything else; (): the whole slice
    data.blur = 0.0  # rank 2: standard deviation of a Gaussian blur, pixels of the slice; 0: none
    data.extra = ()  # rank 2: channels made from the image, counted in `channels`: kmeans edge painted_edge autoencoder
    data.extra_run = ""  # the run whose network makes edge, painted_edge or autoencoder
    data.target = "labels"  # rank 2: what is learnt: labels, edges (of the labels), composite (image with the labels blended in)
    data.min_area = _optional(int)  # brats, brats_arrays: keep slices with a class of more pixels; None: every slice
    data.sample = _optional(float)  # brats, brats_arrays: the share of those that is drawn
    data.sample_seed = _optional(int)  # of that draw
    data.normalise = _optional(str)  # brats_arrays: auto, brain (z-scores are made), given (the arrays hold them)
    data.protocol = _optional(str)  # ct_ich: "only" (slices with a bleed) or "all"
    data.structures = _optional(tuple)  # names of the classes 1, 2, ... (organs_ct: which organs; lungs; folder; scoliosis)
    data.mask_values = _optional(tuple)  # folder: ((value or palette index or "#rrggbb", class), ...), where masks need a table
    data.suffixes = _optional(tuple)  # folder: what the names of a case's channels end in: ("_t1", "_flair")
    data.patient = _optional(str)  # your own data: a column, or a regular expression with one group, that names the patient
    data.ignore = _optional(str)  # nnunet_raw, decathlon: what dataset.json's ignore label counts as: "background"
    data.naming = _optional(str)  # lungs: sides are the "patient"'s, or the "image"'s
    data.allow_empty = _optional(bool)  # scoliosis: an image without a label file has no object
    data.modalities = _optional(tuple)  # brats: which, in channel order, e.g. ("t1ce", "flair")
    data.release = _optional(str)  # brats: "2023" or "2024" where the file names do not show it
    data.regions = ()  # one sigmoid logit per region (WT, TC, ET) instead of a softmax over the classes: () for none,
    # ("dataset",) as the data set names them, or ((name, (class, ...)), ...) with names or numbers of classes
    data.coordinates = False  # rank 3: three more channels, each voxel's place in the whole volume (CoordConv)
    data.whole = False  # rank 3, fit stretch: every volume is one example, resized to `size` (region-of-interest networks)
    data.per_volume = 16  # patches of each volume (slice, picture) in an epoch
    data.foreground = 1 / 3  # share of the patches that are centred on a foreground voxel
    data.positions = "uniform"  # where the other patches begin: uniform (anywhere), centre_clipped (any centre, moved inside)
    data.phantom = _optional(str)  # which embedded phantom when root is empty: "default" or "quick"
    data.bad_cases = "stop"  # files that cannot be used: stop at the first, or skip their cases and say which
    data.bad_share = 0.05  # bad_cases "skip": the largest share of the cases that may be bad
    data.split = "patient"  # patient (drawn, stratified), fold, fixed (by the data set), file, slice_level (leaks); auto
    data.split_file = ""  # split "file": JSON with lists of patients under train, val and test, such as a run's splits.json
    data.folds = 5  # split "fold": how many parts
    data.fold = 0  # split "fold": part `fold` tests, the next one chooses the checkpoint, the others train
    data.split_seed = 0  # of the split alone, so that another run seed sees the same split
    data.fractions = (0.7, 0.1, 0.2)  # train, val, test shares of the patients
    data.max_samples = 0  # at most this many training examples (0: all)
    data.transforms = ()  # on the host, of each training example, before train.augment: (("my_module:function", options), ...)
    data.workers = 0  # Grain worker processes; 0 reads in the main process

    c.model = model = ConfigDict()
    model.name = "segnext_t_ich"  # a registry name, "encoder+decoder", or "my_module:MyNet"
    model.options = ConfigDict()  # fields of the family's Config to override, e.g. {"dropout": 0.2}
    model.softmax = False  # with a single class: two softmax logits instead of one sigmoid logit
    model.init = ""  # start from this run folder, checkpoint, .pth / .safetensors file or pretrained:efficientnet_lite0

    c.loss = loss = ConfigDict()
    loss.terms = (("dice", 1.0),)  # (name in jaxseg.losses.TERMS or "my_module:function", weight), summed
    loss.options = ConfigDict()  # keyword arguments by term: {"focal": {"gamma": 2.0}}
    loss.aux_weights = ()  # weights of auxiliary or deep-supervision outputs, in the network's order
    loss.learnable = ()  # ((term, x at the start), ...): trained factors 2 (sigmoid(x) + 1/2), one for each term that counts
    loss.aux_terms = ()  # terms of those outputs, as above; (): the same terms as the main output

    c.optim = optim = ConfigDict()
    optim.name = "adam"  # adam adamw adagrad sgd, or a factory: "optax:lion", "my_module:factory"
    optim.lr = 1e-4  # peak learning rate
    optim.options = ConfigDict()  # keyword arguments of the optimiser: {"b1": 0.9}
    optim.weight_decay = 0.0  # decoupled for adamw, added to the gradient for the others (as PyTorch does)
    optim.groups = ()  # ((regex, {"lr": factor, "decay": factor}), ...): first match wins; unmatched: factor 1
    optim.clip_norm = 0.0  # clip the global gradient norm to this (0: off)
    optim.accumulate = 1  # micro-batches per update
    optim.ema = 0.0  # decay of the weights' moving average that is evaluated and exported (0: off)

    c.schedule = schedule = ConfigDict()
    schedule.name = "constant"  # constant poly cosine step plateau, or a factory: "optax:exponential_decay"
    schedule.warmup = 0  # steps of linear warm-up
    schedule.warmup_ratio = 1e-6  # factor at step 0 of the warm-up
    schedule.options = ConfigDict()  # poly: {"power": 1.0}; cosine: {"final": 0.0, "period": epochs}; plateau: factor ...

    c.train = train = ConfigDict()
    train.epochs = 100
    train.batch_size = 16  # global: over all devices and processes
    train.dtype = "auto"  # compute dtype: bfloat16 on a GPU or TPU, float32 on a CPU; or either by name (norms, losses: float32)
    train.augment = ()  # (name in jaxseg.augment.TRANSFORMS or "my_module:Class", probability, options), in order, on the device
    train.bn_warmup = 0  # batches whose statistics BatchNorm sees before the first step
    train.eval_every = 1  # epochs between validations
    train.best = "val_loss"  # criterion of "best": val_loss, val_dice, val_recall, last
    train.save_every = 1  # epochs between checkpoints
    train.keep = 2  # newest checkpoints kept beside the best
    train.log_every = 20  # steps between progress lines
    train.alarm_after = 3  # validations in a row that predict only background before the alarm (0: no alarm)
    train.stop_nonfinite = 5  # steps in a row with a non-finite gradient before the run stops (0: never)
    train.watchdog = _optional(int)  # seconds without a finished step before the process ends with 75 (0: off); None: 600 with
    # several processes, off with one. Before the first step and in a validation 1800 may pass, if that is more

    c.eval = evaluate = ConfigDict()
    evaluate.batch_size = 8
    evaluate.thresholds = (0.5, 0.6, 0.7, 0.8, 0.9)
    evaluate.threshold = 0.5  # of the headline figures, for one class and for regions (several classes: the largest)
    evaluate.metrics = ()  # scores of your own beside ours, of every example and class: ("my_module:function", ...)
    evaluate.tables = ("ich",)  # rank 2: published projects' own figures to print: ich classes left_right effisegnet
    evaluate.empty = "one"  # score of an image with empty truth and empty prediction: one, zero, nan (left out)
    evaluate.split = "test"
    evaluate.surface = True  # rank 3: HD95 and NSD, in mm
    evaluate.lesions = ""  # rank 3: lesion-wise scores by the rules of this challenge (GLI, SSA, MEN, PED, MET)
    evaluate.keep = 10  # so many of the worst examples, and of those around the median, keep their pictures for the page; 0: none
    evaluate.postprocess = False  # choose post-processing on the validation split and apply it to the scored one

    c.infer = infer = ConfigDict()
    infer.batch_size = 8
    infer.probabilities = False  # write probability maps beside the labels
    infer.overlay = True  # write overlay pictures
    infer.statistics = False  # write volumes (ml) or areas (pixels, mm2) and mean intensities of the structures (--statistics)
    infer.uncertainty = ""  # write maps of it: entropy (bits), or variance over the runs of infer.ensemble (--uncertainty)
    infer.roi = ""  # rank 3: a run of configs/brats_roi.py: the cascade, beside the sliding window
    infer.ensemble = ()  # predict: further run folders (folds, seeds) whose logits are averaged with the run's
    infer.postprocess = False  # apply the steps that evaluate chose
    infer.overlap = 0.25  # patches: share of a window that neighbours have in common
    infer.blend = "gaussian"  # patches: constant gaussian gaussian_nnunet cosine half_cosine
    infer.positions = "monai"  # patches: monai nnunet
    infer.windows = 2  # patches: windows per forward pass; whole volumes too
    infer.mirror = ()  # axes to flip for averaging, e.g. (0, 1, 2)
    infer.accumulator = "auto"  # patches: auto device host memmap

    c.search = search = ConfigDict()  # --mode=search: Bayesian optimisation of cross-entropy's class weights
    search.trials = 20  # whole runs
    search.objective = "val_dice"  # of a trial's chosen checkpoint: val_dice or val_recall
    search.low = 0.1  # each class's weight is searched from here, background's being 1,
    search.high = 30.0  # to here, on a logarithmic scale

    c.compare = compare = ConfigDict()  # --mode=compare: every model (or variant) with every seed and fold, side by side
    compare.models = ()  # registry names; (): the config's own network
    compare.seeds = ()  # random seeds; (): the config's own
    compare.folds = 0  # into how many parts the patients are split; 0: the config's own split
    compare.fold = ()  # which of these parts are tested, a run each; (): all
    compare.vary = ()  # variants of the config: ((label, ((key, value), ...)), ...), e.g. (("large lr", (("optim.lr", 0.01),)),)
    compare.measure = False  # measure memory and latency of every model on this device (compiles two more programs for each)

    c.report = report = ConfigDict()  # --mode=report, and the page of --mode=compare
    report.names = "plain"  # of cases and patients: plain, or hash (ten digits in their place, the same ones for the same data)
    report.before = ""  # --mode=report: another run on the same cases; the page sets this run beside it, case by case
    report.pictures = True  # show the pictures that evaluation kept; False: tables and charts alone
    report.megabytes = 25.0  # the page's size: pictures that do not fit any more are left out, the worst cases come first

    c.plan = plan = ConfigDict()  # --mode=plan: spacing, patch, batch and network for your own data, by nnU-Net's rules
    plan.memory_gb = 8.0  # GPU memory that training may take, in nnU-Net's estimate

    c.mesh = mesh = ConfigDict()
    mesh.data = 0  # devices along the batch axis; 0: all
    mesh.shard_state = False  # devices share parameters and optimiser state, each a part, in place of a copy on each

    c.defaults = json.dumps(c.to_dict())  # this tree as it stands here: what an experiment is compared with
    return c.lock()
